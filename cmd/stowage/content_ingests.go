package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

// ingestRow is what `content ingests` tells of a blob that is being written.
type ingestRow struct {
	Key       string         `json:"key"`
	Digest    stowage.Digest `json:"digest,omitempty"`
	Offset    int64          `json:"offset"`
	Size      int64          `json:"size"` // negative: unknown
	Busy      bool           `json:"busy"`
	StartedAt time.Time      `json:"startedAt"`
	UpdatedAt time.Time      `json:"updatedAt"`
}

func contentIngestsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ingests", Aliases: []string{"active"}, Short: "List blobs that are being written, or were left unfinished",
		Args: cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		list, err := s.Ingests(cmd.Context())
		if err != nil {
			return err
		}
		rows := make([]ingestRow, len(list))
		for i, st := range list {
			rows[i] = ingestRow{st.Key, st.Digest, st.Offset, st.Size, st.Busy, st.StartedAt, st.UpdatedAt}
		}
		now := time.Now()
		return out.print(a.out, rows, anys(rows), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "REF\tOFFSET\tSIZE\tSTATE\tAGE")
			for _, r := range rows {
				state, size := "left", "-"
				if r.Busy {
					state = "writing"
				}
				if r.Size >= 0 {
					size = humanSize(r.Size)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Key, humanSize(r.Offset), size, state, humanAge(r.UpdatedAt, now))
			}
		})
	}
	return cmd
}
