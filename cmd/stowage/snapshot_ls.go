package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func snapshotLsCommand(a *app, f *snapshotFlags) *cobra.Command {
	return listing[stowage.Snapshot]{
		short: "List snapshots", quiet: "keys only",
		list:   func(ctx context.Context) ([]stowage.Snapshot, error) { return f.walk(ctx, a) },
		name:   func(row stowage.Snapshot) string { return row.Key },
		header: "KEY\tPARENT\tKIND",
		row: func(row stowage.Snapshot) string {
			return fmt.Sprintf("%s\t%s\t%s", row.Key, row.Parent, string(row.Kind))
		},
	}.command(a)
}
