package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

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
