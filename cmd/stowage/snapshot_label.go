package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func snapshotLabelCommand(a *app, f *snapshotFlags) *cobra.Command {
	return &cobra.Command{
		Use: "label KEY K=V...", Short: "Set labels of a snapshot; K= removes one",
		Example: "  stowage snapshot label work owner=me",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := parseLabels(args[1:])
			if err != nil {
				return err
			}
			sn, err := f.open(a)
			if err != nil {
				return err
			}
			row, err := sn.Label(cmd.Context(), args[0], set)
			if err != nil {
				return err
			}
			for _, k := range sortedKeys(row.Labels) {
				fmt.Fprintf(a.out, "%s=%s\n", k, row.Labels[k])
			}
			return nil
		},
	}
}
