package main

import (
	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func contentPruneCommand(a *app) *cobra.Command {
	var dry, all bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete blobs and unpacked layers that nothing refers to",
		Long: `Deletes blobs and unpacked layers that no image, lease or running operation refers to, and
says how many bytes came free. Snapshots that were prepared or committed by hand stay. Whole blobs that interrupted pulls left are kept for a day, so that the next pull
finds them; with --all they go as well.`,
		Example: "  stowage content prune --dry-run",
		Args:    cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would go, and keep it")
	cmd.Flags().BoolVar(&all, "all", false, "also what interrupted pulls left less than a day ago")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		r, err := s.Prune(cmd.Context(), stowage.PruneOptions{DryRun: dry, All: all})
		if err != nil {
			return err
		}
		return printPruned(a, out, r, dry)
	}
	return cmd
}
