package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

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
