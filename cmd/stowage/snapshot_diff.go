package main

import "github.com/spf13/cobra"

func snapshotDiffCommand(a *app, f *snapshotFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "diff KEY | diff BASE KEY",
		Short: "Write the layer that a snapshot adds, as a tar",
		Long: `Writes to standard output the layer that leads from a snapshot's parent, or from BASE, to the
snapshot: an uncompressed tar with whiteouts as images have them. The same snapshots give
the same bytes every time, whichever snapshotter has them.`,
		Example: "  stowage snapshot diff work | tar tv",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.local()
			if err != nil {
				return err
			}
			base, key := "", args[len(args)-1]
			if len(args) == 2 {
				base = args[0]
			}
			a.streams = true
			return s.DiffSnapshot(cmd.Context(), a.out, f.snapshotter, key, base)
		},
	}
}
