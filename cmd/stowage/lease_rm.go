package main

import "github.com/spf13/cobra"

func leaseRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm ID...", Aliases: []string{"remove", "delete", "del"}, Short: "Remove leases",
		Example: "  stowage lease rm night",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.local()
			if err != nil {
				return err
			}
			for _, id := range args {
				if err := s.DeleteLease(cmd.Context(), id); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
