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
--gc that is before the command ends.`,
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
		gone, err := s.RemoveImages(cmd.Context(), args...)
		if err != nil {
			return err
		}
		for _, n := range gone {
			fmt.Fprintln(a.out, n)
		}
		if !collect {
			return nil
		}
		_, err = s.Prune(cmd.Context(), stowage.PruneOptions{})
		return err
	}
	return cmd
}
