package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func contentVerifyCommand(a *app) *cobra.Command {
	var all, resume, quiet bool
	var limit string
	cmd := &cobra.Command{
		Use:   "verify [DIGEST...|--all]",
		Short: "Read blobs and compare their digests",
		Long: `Reads blobs and compares their digests, as many at once as there are processors, the largest
first. Prints DIGEST ok, corrupt or missing for each. Exits with 4 if any is not ok.

A run over all blobs that is interrupted goes on with --resume: what was read and in order is
not read again, unless something touched it since.`,
		Example: `  stowage content verify --all
  stowage content verify --all --limit-rate 50M --resume
  stowage content verify sha256:4fe2ade4980c`,
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("name digests, or give --all")
			}
			if resume && !all {
				return errors.New("--resume is for --all")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every blob in the store, whatever its namespace")
	cmd.Flags().BoolVar(&resume, "resume", false, "go on where the last run of --all was interrupted")
	cmd.Flags().StringVar(&limit, "limit-rate", "", "bytes a second for all blobs together, such as 500k or 50M")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the blobs that are not in order")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		var o stowage.VerifyOptions
		if o.Rate, err = parseRate(limit); err != nil {
			return usagef("--limit-rate %s: %w", limit, err)
		}
		d, err := a.draw()
		if err != nil {
			return err
		}
		defer d.wait()
		o.Progress = d.sink
		s, err := a.local()
		if err != nil {
			return err
		}
		whole := true
		report := func(f stowage.BlobFinding) {
			if f.Verdict != stowage.OK || !quiet {
				fmt.Fprintf(a.out, "%s %s\n", f.Digest, f.Verdict)
			}
			if f.Verdict != stowage.OK {
				whole = false
				_ = a.out.flush() // whoever waits wants to know; a.out remembers the error
			}
		}
		if all {
			if err = s.VerifyAll(cmd.Context(), resume, o, report); cmd.Context().Err() != nil {
				err = hinted{err, "the same command with --resume goes on from there"}
			}
		} else {
			err = s.Verify(cmd.Context(), args, o, report)
		}
		if err == nil && !whole {
			err = errors.Join(errReported, errNotWhole)
		}
		return err
	}
	return cmd
}
