package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

// snapshotPrepareCommand makes prepare, and view, which differs in what it makes.
func snapshotPrepareCommand(a *app, f *snapshotFlags, name string) *cobra.Command {
	var target string
	var asJSON bool
	var label []string
	cmd := &cobra.Command{
		Use:   name + " KEY [PARENT]",
		Short: "Make an active snapshot on a committed one",
		Long: `Makes an active snapshot called KEY on the committed snapshot PARENT, or on nothing. With
--target it prints the commands that mount it there.`,
		Example: "  stowage snapshot " + name + " --target /mnt work sha256:5561829c… | sh",
		Args:    cobra.RangeArgs(1, 2),
	}
	make := stowage.Snapshots.Prepare
	if name == "view" {
		cmd.Short = "Make a read-only view of a committed snapshot"
		cmd.Long = `Makes a view called KEY of the committed snapshot PARENT. With --target it prints the commands
that mount it there.`
		make = stowage.Snapshots.View
	}
	cmd.Flags().StringVarP(&target, "target", "t", "", "print the commands that mount it at this folder")
	cmd.Flags().BoolVar(&asJSON, "mounts", false, "print the mounts as JSON")
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
		parent := ""
		if len(args) > 1 {
			parent = args[1]
		}
		mounts, err := make(sn, cmd.Context(), args[0], parent, set)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(a.out, mounts)
		}
		if target != "" {
			printMounts(a, mounts, target)
		}
		return nil
	}
	return cmd
}

// printMounts prints the commands that make mounts.
func printMounts(a *app, mounts []stowage.Mount, target string) {
	for _, m := range mounts {
		fmt.Fprintln(a.out, m.Command(target))
	}
}
