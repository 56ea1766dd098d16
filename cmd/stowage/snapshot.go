package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

// snapshotFlags are those of all subcommands of snapshot.
type snapshotFlags struct{ snapshotter string }

func snapshotCommand(a *app) *cobra.Command {
	var f snapshotFlags
	cmd := group("snapshot", "Work with unpacked filesystems", []string{"snapshots"},
		snapshotLsCommand(a, &f), snapshotTreeCommand(a, &f), snapshotInfoCommand(a, &f), snapshotUsageCommand(a, &f),
		snapshotPrepareCommand(a, &f, "prepare"), snapshotPrepareCommand(a, &f, "view"), snapshotMountsCommand(a, &f),
		snapshotCommitCommand(a, &f), snapshotRmCommand(a, &f), snapshotLabelCommand(a, &f), snapshotDiffCommand(a, &f))
	for _, c := range cmd.Commands() {
		addSnapshotter(c, &f.snapshotter)
	}
	return cmd
}

// open opens the snapshotter that the flags name.
func (f *snapshotFlags) open(a *app) (stowage.Snapshots, error) {
	s, err := a.local()
	if err != nil {
		return nil, err
	}
	return s.Snapshots(a.ctx, f.snapshotter)
}

// walk lists the snapshots of the snapshotter that the flags name.
func (f *snapshotFlags) walk(ctx context.Context, a *app) ([]stowage.Snapshot, error) {
	sn, err := f.open(a)
	if err != nil {
		return nil, err
	}
	return sn.Walk(ctx)
}
