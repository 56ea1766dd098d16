package main

import (
	"io"

	"github.com/spf13/cobra"
)

func contentGetCommand(a *app) *cobra.Command {
	var reg registryFlags
	cmd := &cobra.Command{
		Use: "get DIGEST", Short: "Write a blob to standard output, verified",
		Long: `Writes the bytes of a blob to standard output and compares their digest on the way. When
they do not match, the exit status is 4, and what was written must not be used. A layer that
was evicted is fetched from where it came from, and stays.`,
		Example: "  stowage content get sha256:4fe2ade4980c | jq .",
		Args:    cobra.ExactArgs(1),
	}
	reg.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
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
		return a.toFile("", func(w io.Writer) error { return s.WriteBlob(cmd.Context(), w, args[0], d.sink) }, nil)
	}
	return cmd
}
