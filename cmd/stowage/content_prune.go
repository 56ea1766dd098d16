package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func contentPruneCommand(a *app) *cobra.Command {
	var dry, all, evict bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete blobs and unpacked layers that nothing refers to",
		Long: `Deletes blobs and unpacked layers that no image, lease or running operation refers to, and
says how many bytes came free. Snapshots that were prepared or committed by hand stay. Whole blobs that interrupted pulls left are kept for a day, so that the next pull
finds them; with --all they go as well.

With --evict nothing of that goes, but the packed layers of images that are unpacked: those
that came from a registry, so that they can be fetched again from there. Images that are
pinned (image label REF stowage.pin=yes) keep theirs. The others are listed as lazy: they are
mounted as before, and export, push, copy and content get fetch what they need.`,
		Example: "  stowage content prune --dry-run\n  stowage content prune --evict",
		Args:    cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would go, and keep it")
	cmd.Flags().BoolVar(&all, "all", false, "also what interrupted pulls left less than a day ago")
	cmd.Flags().BoolVar(&evict, "evict", false, "give up the packed layers of unpacked images that can be fetched again")
	cmd.MarkFlagsMutuallyExclusive("all", "evict")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		if evict {
			e, err := s.Evict(cmd.Context(), stowage.EvictOptions{DryRun: dry})
			if err != nil {
				return err
			}
			return out.print(a.out, e, []any{e}, func(w *tabwriter.Writer) { printEvicted(w, e, dry) })
		}
		r, err := s.Prune(cmd.Context(), stowage.PruneOptions{DryRun: dry, All: all})
		if err != nil {
			return err
		}
		return printPruned(a, out, r, dry)
	}
	return cmd
}

// printEvicted says which blobs were given up, or would be.
func printEvicted(w *tabwriter.Writer, e *stowage.Eviction, dry bool) {
	for _, b := range e.Blobs {
		fmt.Fprintf(w, "%s\t%s\n", b.Digest, humanSize(b.Size))
	}
	verb := "freed"
	if dry {
		verb = "would free"
	}
	fmt.Fprintf(w, "%s %s in %d blobs\n", verb, humanSize(e.Bytes), len(e.Blobs))
}
