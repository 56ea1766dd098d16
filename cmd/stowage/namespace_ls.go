package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func namespaceLsCommand(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List namespaces",
		Args: cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		list, err := s.Namespaces(cmd.Context())
		if err != nil {
			return err
		}
		if quiet {
			for _, n := range list {
				fmt.Fprintln(a.out, n.Name)
			}
			return nil
		}
		return out.print(a.out, list, anys(list), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "NAME\tLABELS")
			for _, n := range list {
				fmt.Fprintf(w, "%s\t%s\n", n.Name, labels(n.Labels))
			}
		})
	}
	return cmd
}
