package main

import (
	"fmt"
	"text/tabwriter"

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
		o := stowage.PruneOptions{DryRun: dry}
		if all {
			o.Grace = -1
		}
		r, err := s.Prune(cmd.Context(), o)
		if err != nil {
			return err
		}
		return out.print(a.out, r, []any{r}, func(w *tabwriter.Writer) {
			for _, b := range r.Blobs {
				fmt.Fprintf(w, "%s\t%s\n", b.Digest, humanSize(b.Size))
			}
			verb := "freed"
			if dry {
				verb = "would free"
			}
			for _, key := range r.Snapshots {
				fmt.Fprintf(w, "%s\tsnapshot\n", key)
			}
			fmt.Fprintf(w, "%s %s in %d blobs\n", verb, humanSize(r.Bytes), len(r.Blobs))
			if len(r.Snapshots) > 0 || r.Unpacked.Inodes > 0 {
				fmt.Fprintf(w, "%s %s in %d snapshots\n", verb, humanSize(r.Unpacked.Size), len(r.Snapshots))
			}
		})
	}
	return cmd
}
