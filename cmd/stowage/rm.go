package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func rmCommand(a *app, name string) *cobra.Command {
	var collect bool
	cmd := &cobra.Command{
		Use:   name + " REF...",
		Short: "Take names of images away",
		Long: `Takes names of images away. Names go at once and content at the next collection; with
--gc, or on_removal in the [gc] section of the configuration, what only the images needed goes
before the command ends. Until it went "image restore" brings names back.`,
		Example: "  stowage rmi alpine\n  stowage rmi --gc $(stowage images -q)",
		Args:    cobra.MinimumNArgs(1),
	}
	if name == "rm" {
		cmd.Aliases = []string{"remove", "delete", "del"}
	}
	cmd.Flags().BoolVar(&collect, "gc", false, "delete what nothing refers to any more before returning")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		r, err := s.RemoveImages(cmd.Context(), args, stowage.RemoveOptions{Collect: collect})
		if r == nil {
			return err
		}
		for _, n := range r.Names {
			fmt.Fprintln(a.out, n)
		}
		return err
	}
	return cmd
}
