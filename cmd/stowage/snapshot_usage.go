package main

import (
	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func snapshotUsageCommand(a *app, f *snapshotFlags) *cobra.Command {
	var bytes bool
	cmd := &cobra.Command{
		Use: "usage [KEY...]", Short: "What snapshots take without their parents: bytes and inodes",
		Example: "  stowage snapshot usage -b",
		Args:    cobra.ArbitraryArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVarP(&bytes, "bytes", "b", false, "sizes in bytes")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		sn, err := f.open(a)
		if err != nil {
			return err
		}
		if len(args) == 0 {
			rows, err := sn.Walk(cmd.Context())
			if err != nil {
				return err
			}
			for _, row := range rows {
				args = append(args, row.Key)
			}
		}
		list := []stowage.LayerUsage{}
		for _, key := range args {
			u, err := sn.Usage(cmd.Context(), key)
			if err != nil {
				return err
			}
			list = append(list, stowage.LayerUsage{Key: key, SnapshotUsage: u})
		}
		return printUsage(a, out, list, bytes)
	}
	return cmd
}
