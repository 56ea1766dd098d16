package main

import "github.com/spf13/cobra"

func namespaceRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"remove", "delete", "del"}, Short: "Remove empty namespaces",
		Example: "  stowage namespace rm team",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.local()
			if err != nil {
				return err
			}
			for _, n := range args {
				if err := s.DeleteNamespace(cmd.Context(), n); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
