package main

import "github.com/spf13/cobra"

func contentAbortCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "abort REF", Short: "Throw away what was kept of an unfinished blob",
		Example: "  stowage content abort my-layer",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.local()
			if err != nil {
				return err
			}
			return s.AbortIngest(cmd.Context(), args[0])
		},
	}
}
