package main

import (
	"io"

	"github.com/spf13/cobra"
)

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
