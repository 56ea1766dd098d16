package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

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
