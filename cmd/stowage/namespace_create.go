package main

import "github.com/spf13/cobra"

func namespaceCreateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "create NAME [K=V...]", Short: "Make a namespace", Aliases: []string{"c"},
		Example: "  stowage namespace create team owner=alice",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := parseLabels(args[1:])
			if err != nil {
				return err
			}
			s, err := a.local()
			if err != nil {
				return err
			}
			return s.CreateNamespace(cmd.Context(), args[0], m)
		},
	}
}
