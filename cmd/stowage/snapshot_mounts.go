package main

import "github.com/spf13/cobra"

func snapshotMountsCommand(a *app, f *snapshotFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "mounts TARGET KEY", Aliases: []string{"m", "mount"},
		Short:   "Print the commands that mount an active snapshot or a view",
		Example: "  stowage snapshot mounts /mnt work | sh",
		Args:    cobra.ExactArgs(2),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the mounts as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		sn, err := f.open(a)
		if err != nil {
			return err
		}
		mounts, err := sn.Mounts(cmd.Context(), args[1])
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.out, mounts)
		}
		printMounts(a, mounts, args[0])
		return nil
	}
	return cmd
}
