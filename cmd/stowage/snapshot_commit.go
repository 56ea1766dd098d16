package main

import "github.com/spf13/cobra"

func snapshotCommitCommand(a *app, f *snapshotFlags) *cobra.Command {
	var label []string
	cmd := &cobra.Command{
		Use: "commit NAME KEY", Short: "Turn the active snapshot KEY into the committed one NAME",
		Long: `Turns the active snapshot KEY into the committed snapshot NAME, which does not change any more
and may be a parent. Unmount it first.`,
		Example: "  stowage snapshot commit my-state work",
		Args:    cobra.ExactArgs(2),
	}
	cmd.Flags().StringArrayVar(&label, "label", nil, "KEY=VALUE (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		set, err := parseLabels(label)
		if err != nil {
			return err
		}
		sn, err := f.open(a)
		if err != nil {
			return err
		}
		return sn.Commit(cmd.Context(), args[0], args[1], set)
	}
	return cmd
}
