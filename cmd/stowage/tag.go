package main

import (
	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func tagCommand(a *app, name string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     name + " SRC DST...",
		Short:   "Give an image further names",
		Example: "  stowage tag alpine registry.example.com/base:1\n  stowage tag --force alpine:3.20 base:latest",
		Args:    cobra.MinimumNArgs(2),
	}
	cmd.Flags().BoolVar(&force, "force", false, "move a name that stands for another image")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, dst := range args[1:] {
			if err := stowage.CheckReference(dst); err != nil {
				return usageError{err}
			}
		}
		s, err := a.local()
		if err != nil {
			return err
		}
		for _, dst := range args[1:] {
			err := s.Tag(cmd.Context(), args[0], dst, force)
			if errdefs.IsAlreadyExists(err) {
				return hinted{err, "--force moves the name"}
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
