package main

import "github.com/spf13/cobra"

func snapshotInfoCommand(a *app, f *snapshotFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "info KEY", Short: "Describe a snapshot, as JSON",
		Example: "  stowage snapshot info work | jq .parent",
		Args:    cobra.ExactArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		sn, err := f.open(a)
		if err != nil {
			return err
		}
		row, err := sn.Stat(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return printJSON(a.out, row)
	}
	return cmd
}
