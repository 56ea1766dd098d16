package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func snapshotLsCommand(a *app, f *snapshotFlags) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List snapshots",
		Args: cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "keys only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sn, err := f.open(a)
		if err != nil {
			return err
		}
		list, err := sn.Walk(cmd.Context())
		if err != nil {
			return err
		}
		if list == nil {
			list = []stowage.Snapshot{}
		}
		if quiet {
			for _, row := range list {
				fmt.Fprintln(a.out, row.Key)
			}
			return nil
		}
		return out.print(a.out, list, anys(list), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "KEY\tPARENT\tKIND")
			for _, row := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\n", row.Key, row.Parent, string(row.Kind))
			}
		})
	}
	return cmd
}
