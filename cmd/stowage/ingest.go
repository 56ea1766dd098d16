package main

import (
	"errors"
	"fmt"
	"os"
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

func contentIngestCommand(a *app) *cobra.Command {
	var want string
	var size int64
	cmd := &cobra.Command{
		Use: "ingest REF", Short: "Store standard input as a blob",
		Long: `Stores standard input as a blob and prints its digest. Nothing refers to the blob: it goes
with the next collection unless a lease or an image needs it by then. An ingest that is cut
off goes on under the same REF, when it is given the same bytes again.`,
		Example: "  stowage content ingest my-layer --expected-size 1024 < layer.tar.gz",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&want, "expected-digest", "", "digest that the bytes must have")
	cmd.Flags().Int64Var(&size, "expected-size", -1, "number of bytes that must come")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		d, err := s.Ingest(cmd.Context(), args[0], a.in, stowage.Digest(want), size)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.out, d.Digest)
		return err
	}
	return cmd
}

func contentAbortCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "abort REF", Short: "Throw away what was kept of an unfinished blob",
		Example: "  stowage content abort my-layer",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.local()
			if err != nil {
				return err
			}
			return s.AbortIngest(cmd.Context(), args[0])
		},
	}
}

// importBlobs reads a tar of blobs from a file or from standard input.
func (a *app) importBlobs(cmd *cobra.Command, s *stowage.Store, file string) (res *stowage.ImportResult, err error) {
	if std(file) {
		return s.ImportBlobs(cmd.Context(), a.in)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return s.ImportBlobs(cmd.Context(), f)
}
