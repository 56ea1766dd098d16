package main

import "github.com/spf13/cobra"

func labelImageCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "label REF K=V...",
		Short:   "Set labels of an image; K= removes one",
		Example: "  stowage image label alpine team=base\n  stowage image label alpine team=",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := parseLabels(args[1:])
			if err != nil {
				return err
			}
			s, err := a.local()
			if err != nil {
				return err
			}
			return s.LabelImage(cmd.Context(), args[0], m)
		},
	}
}
