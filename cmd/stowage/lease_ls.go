package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func leaseLsCommand(a *app) *cobra.Command {
	return listing[stowage.Lease]{
		short: "List leases, those of running operations included", quiet: "names only",
		list: func(ctx context.Context) ([]stowage.Lease, error) {
			s, err := a.local()
			if err != nil {
				return nil, err
			}
			return s.Leases(ctx)
		},
		name:   func(l stowage.Lease) string { return l.ID },
		header: "LEASE\tCREATED\tEXPIRES\tHOLDS\tLABELS",
		row: func(l stowage.Lease) string {
			expires := "-"
			if !l.ExpiresAt.IsZero() {
				expires = l.ExpiresAt.Format(time.RFC3339)
			}
			if l.Holder != "" {
				expires = "with its operation"
			}
			return fmt.Sprintf("%s\t%s\t%s\t%d blobs\t%s", l.ID, l.CreatedAt.Format(time.RFC3339), expires, len(l.Digests), labels(l.Labels))
		},
	}.command(a)
}
