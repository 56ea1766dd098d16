package main

import (
	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func gcCommand(a *app) *cobra.Command {
	var dry, all, compact bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Delete what nothing needs any more",
		Long: `Deletes the blobs, unpacked layers and unfinished downloads that no image, lease, pin, label
or running operation needs, in every namespace, and says how many bytes came free. Images
with a name are needed: "image rm" and "image prune" take names away. Snapshots that were
prepared or committed by hand stay as well.

What an interrupted pull left is kept for a day, or for as long as grace in the [gc] section
of the configuration says, so that the next pull goes on from there; --all does not wait.

Other commands go on meanwhile. "why" says what keeps something, and "du" what takes space.`,
		Example: "  stowage gc --dry-run\n  stowage gc --all --compact\n  stowage gc --format json | jq .bytes",
		Args:    cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would go, and keep it")
	cmd.Flags().BoolVar(&all, "all", false, "also what interrupted pulls have left lately")
	cmd.Flags().BoolVar(&compact, "compact", false, "then also give the space that the metadata no longer needs back to the disk")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "compact")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		r, err := s.Prune(cmd.Context(), stowage.PruneOptions{DryRun: dry, All: all})
		if err != nil {
			return err
		}
		if compact {
			if err := s.Compact(cmd.Context()); err != nil {
				return err
			}
		}
		return printPruned(a, out, r, dry)
	}
	return cmd
}
