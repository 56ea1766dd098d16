package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func leaseCommand(a *app) *cobra.Command {
	return group("lease", "Keep content from collection", []string{"leases"},
		leaseLsCommand(a), leaseCreateCommand(a), leaseRmCommand(a))
}

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

func leaseCreateCommand(a *app) *cobra.Command {
	var id string
	var expires time.Duration
	var digests []string
	cmd := &cobra.Command{
		Use: "create [K=V...]", Short: "Make a lease and print its name",
		Example: "  stowage lease create --id night --expires 12h --digest sha256:4fe2ade4980c",
		Args:    cobra.ArbitraryArgs,
	}
	cmd.Flags().StringVar(&id, "id", "", "its name (default a new one)")
	cmd.Flags().DurationVarP(&expires, "expires", "x", 24*time.Hour, "how long it lasts; 0: until it is removed")
	cmd.Flags().StringArrayVar(&digests, "digest", nil, "a blob to keep, with all that it refers to (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := parseLabels(args)
		if err != nil {
			return err
		}
		s, err := a.local()
		if err != nil {
			return err
		}
		l := stowage.Lease{ID: id, Labels: m}
		if expires > 0 {
			l.ExpiresAt = time.Now().Add(expires)
		}
		for _, text := range digests {
			b, err := s.Blob(cmd.Context(), text)
			if err != nil {
				return err
			}
			l.Digests = append(l.Digests, b.Digest)
		}
		made, err := s.CreateLease(cmd.Context(), l)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.out, made.ID)
		return err
	}
	return cmd
}

func leaseRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm ID...", Aliases: []string{"remove", "delete", "del"}, Short: "Remove leases",
		Example: "  stowage lease rm night",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.local()
			if err != nil {
				return err
			}
			for _, id := range args {
				if err := s.DeleteLease(cmd.Context(), id); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
