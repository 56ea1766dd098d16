package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

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
