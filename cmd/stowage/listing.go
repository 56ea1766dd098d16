package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// A listing is a subcommand that lists rows: all of them as --format says, or with --quiet a name a
// line.
type listing[T any] struct {
	short  string
	quiet  string // what --quiet leaves, for its help
	list   func(ctx context.Context) ([]T, error)
	name   func(T) string
	header string
	row    func(T) string // its columns, with tabs between them
}

func (l listing[T]) command(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: l.short,
		Args: cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, l.quiet)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := l.list(cmd.Context())
		if err != nil {
			return err
		}
		if quiet {
			for _, v := range list {
				fmt.Fprintln(a.out, l.name(v))
			}
			return nil
		}
		if list == nil {
			list = []T{} // JSON has [] for it
		}
		return out.print(a.out, list, anys(list), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, l.header)
			for _, v := range list {
				fmt.Fprintln(w, l.row(v))
			}
		})
	}
	return cmd
}
