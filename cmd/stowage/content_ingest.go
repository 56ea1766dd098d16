package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

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
