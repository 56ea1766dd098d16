package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/stowage/stowage"
)

// printPruned prints what a collection took away, or would take.
func printPruned(a *app, out *format, r *stowage.PruneReport, dry bool) error {
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
