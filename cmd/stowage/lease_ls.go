package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func leaseLsCommand(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List leases, those of running operations included",
		Args: cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		list, err := s.Leases(cmd.Context())
		if err != nil {
			return err
		}
		if list == nil {
			list = []stowage.Lease{}
		}
		if quiet {
			for _, l := range list {
				fmt.Fprintln(a.out, l.ID)
			}
			return nil
		}
		return out.print(a.out, list, anys(list), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "LEASE\tCREATED\tEXPIRES\tHOLDS\tLABELS")
			for _, l := range list {
				expires := "-"
				if !l.ExpiresAt.IsZero() {
					expires = l.ExpiresAt.Format(time.RFC3339)
				}
				if l.Holder != "" {
					expires = "with its operation"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%d blobs\t%s\n", l.ID, l.CreatedAt.Format(time.RFC3339), expires, len(l.Digests), labels(l.Labels))
			}
		})
	}
	return cmd
}
