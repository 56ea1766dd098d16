package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func contentCommand(a *app) *cobra.Command {
	return group("content", "Work with blobs", []string{"c"},
		contentLsCommand(a), contentInfoCommand(a), contentGetCommand(a), contentFetchCommand(a),
		contentVerifyCommand(a), contentExportCommand(a), contentImportCommand(a), contentRmCommand(a),
		contentLabelCommand(a), contentIngestsCommand(a), contentIngestCommand(a), contentAbortCommand(a),
		contentPruneCommand(a))
}

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
		rows := make([]blobRow, len(blobs))
		for i, b := range blobs {
			rows[i] = blobRow{b.Digest, b.Size, b.CreatedAt, b.UpdatedAt, b.Labels}
			if b.Labels == nil {
				rows[i].Labels = map[string]string{}
			}
		}
		if quiet {
			for _, r := range rows {
				fmt.Fprintln(a.out, r.Digest)
			}
			return nil
		}
		now := time.Now()
		return out.print(a.out, rows, anys(rows), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "DIGEST\tSIZE\tAGE\tLABELS")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Digest, humanSize(r.Size), humanAge(r.CreatedAt, now), labels(r.Labels))
			}
		})
	}
	return cmd
}

func contentInfoCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "info DIGEST", Short: "Describe a blob: one JSON document",
		Example: "  stowage content info sha256:4fe2ade4980c | jq .referencedBy",
		Args:    cobra.ExactArgs(1),
	}
	out := formatFlag(cmd, "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		info, err := s.Blob(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return out.document(a.out, info)
	}
	return cmd
}

func contentGetCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get DIGEST", Short: "Write a blob to standard output, verified",
		Long: `Writes the bytes of a blob to standard output and compares their digest on the way. When
they do not match, the exit status is 4, and what was written must not be used.`,
		Example: "  stowage content get sha256:4fe2ade4980c | jq .",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.local()
			if err != nil {
				return err
			}
			return a.toFile("", func(w io.Writer) error { return s.WriteBlob(cmd.Context(), w, args[0]) }, nil)
		},
	}
}

func contentFetchCommand(a *app) *cobra.Command {
	var choose choiceFlags
	var reg registryFlags
	cmd := &cobra.Command{
		Use:   "fetch REF[@DIGEST]",
		Short: "Bring an image without unpacking it, or one blob of it",
		Long: `Brings an image into the store without unpacking it. With the digest of a blob of the
image (a layer or a config), that blob alone is brought, under no name.`,
		Example: "  stowage content fetch alpine\n  stowage content fetch alpine@sha256:…",
		Args:    cobra.ExactArgs(1),
	}
	choose.add(cmd, "to fetch")
	reg.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := stowage.CheckReference(args[0]); err != nil {
			return usageError{err}
		}
		choice, err := choose.choice()
		if err != nil {
			return err
		}
		ro, err := a.registry(&reg)
		if err != nil {
			return err
		}
		d, err := a.draw()
		if err != nil {
			return err
		}
		defer d.wait()
		s, err := a.open(ro)
		if err != nil {
			return err
		}
		line, err := s.Fetch(cmd.Context(), args[0], stowage.PullOptions{Choice: choice, Streams: a.conf.MaxConcurrent, Progress: d.sink})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.out, line)
		return err
	}
	return cmd
}

func contentVerifyCommand(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "verify [DIGEST...|--all]",
		Short: "Read blobs and compare their digests",
		Long: `Reads blobs and compares their digests. Prints DIGEST ok, corrupt or missing, as each is
done. Exits with 4 if any is not ok.`,
		Example: "  stowage content verify --all\n  stowage content verify sha256:4fe2ade4980c",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name digests, or give --all")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every blob in the store, whatever its namespace")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		whole := true
		err = s.Verify(cmd.Context(), args, func(f stowage.BlobFinding) {
			whole = whole && f.Verdict == stowage.OK
			fmt.Fprintf(a.out, "%s %s\n", f.Digest, f.Verdict)
		})
		if err == nil && !whole {
			err = errors.Join(errReported, errNotWhole)
		}
		return err
	}
	return cmd
}

func contentExportCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "export FILE [DIGEST...]",
		Short:   "Write blobs as a tar (the blobs of an OCI layout); - is standard output",
		Example: "  stowage content export blobs.tar\n  stowage content export - sha256:4fe2ade4980c | tar t",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if std(args[0]) {
				if err := a.refuseTerminal(); err != nil {
					return err
				}
			}
			s, err := a.local()
			if err != nil {
				return err
			}
			return a.toFile(args[0],
				func(w io.Writer) error { return s.ExportBlobs(cmd.Context(), w, args[1:]) },
				func(file string) error { return s.ExportBlobsFile(cmd.Context(), file, args[1:]) })
		},
	}
}

func contentImportCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "import FILE",
		Short:   "Read blobs from a tar, each verified; - is standard input",
		Example: "  stowage content import blobs.tar",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.local()
			if err != nil {
				return err
			}
			res, err := a.importBlobs(cmd, s, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "imported %d blobs, %s; %d were here\n", res.Fetched.Blobs, humanSize(res.Fetched.Bytes), res.Reused.Blobs)
			return err
		},
	}
}

func contentRmCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm DIGEST...", Aliases: []string{"remove", "delete", "del"}, Short: "Remove blobs",
		Long: `Removes blobs. One that an image or a lease needs is refused with exit status 6, unless
--force is given; images that needed it are then listed as partial.`,
		Example: "  stowage content rm sha256:4fe2ade4980c",
		Args:    cobra.MinimumNArgs(1),
	}
	cmd.Flags().BoolVar(&force, "force", false, "even if an image needs it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		for _, text := range args {
			d, err := s.RemoveBlob(cmd.Context(), text, force)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, d)
		}
		return nil
	}
	return cmd
}

func contentLabelCommand(a *app) *cobra.Command {
	return labelCommand(a, &cobra.Command{
		Use: "label DIGEST K=V...", Short: "Set labels of a blob; K= removes one",
		Example: "  stowage content label sha256:4fe2ade4980c keep=yes",
	}, (*stowage.Store).LabelBlob)
}

func contentPruneCommand(a *app) *cobra.Command {
	var dry, all bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete blobs that nothing refers to",
		Long: `Deletes blobs that no image, lease or running operation refers to, and says how many bytes
came free. Whole blobs that interrupted pulls left are kept for a day, so that the next pull
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
			fmt.Fprintf(w, "%s %s in %d blobs\n", verb, humanSize(r.Bytes), len(r.Blobs))
		})
	}
	return cmd
}
