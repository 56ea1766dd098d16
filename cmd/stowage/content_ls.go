package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

// blobRow is what `content ls` tells of a blob.
type blobRow struct {
	Digest    stowage.Digest    `json:"digest"`
	Size      int64             `json:"size"`
	CreatedAt time.Time         `json:"createdAt"`
	UpdatedAt time.Time         `json:"updatedAt"`
	Labels    map[string]string `json:"labels"`
}

func contentLsCommand(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the blobs of the namespace",
		Example: "  stowage content ls\n  stowage content ls -q | wc -l",
		Args:    cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "digests only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		blobs, err := s.Blobs(cmd.Context())
		if err != nil {
			return err
		}
		if quiet {
			for _, b := range blobs {
				fmt.Fprintln(a.out, b.Digest)
			}
			return nil
		}
		var rows []blobRow // a table of many blobs is faster without them
		if !out.table() {
			rows = blobRows(blobs)
		}
		now := time.Now()
		return out.print(a.out, rows, anys(rows), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "DIGEST\tSIZE\tAGE\tLABELS")
			for _, b := range blobs {
				fmt.Fprintln(w, b.Digest.String()+"\t"+humanSize(b.Size)+"\t"+humanAge(b.CreatedAt, now)+"\t"+labels(b.Labels))
			}
		})
	}
	return cmd
}

// blobRows are what JSON and templates see of blobs.
func blobRows(blobs []stowage.Blob) []blobRow {
	rows, none := make([]blobRow, len(blobs)), map[string]string{}
	for i, b := range blobs {
		rows[i] = blobRow{b.Digest, b.Size, b.CreatedAt, b.UpdatedAt, b.Labels}
		if b.Labels == nil {
			rows[i].Labels = none
		}
	}
	return rows
}
