package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

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
