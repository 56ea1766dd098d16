package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func snapshotRmCommand(a *app, f *snapshotFlags) *cobra.Command {
	return &cobra.Command{
		Use: "rm KEY...", Aliases: []string{"remove", "del"}, Short: "Remove snapshots that nothing stands on",
		Example: "  stowage snapshot rm work",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sn, err := f.open(a)
			if err != nil {
				return err
			}
			var failed []error
			for _, key := range args {
				failed = append(failed, sn.Remove(cmd.Context(), key))
			}
			return errors.Join(failed...)
		},
	}
}
