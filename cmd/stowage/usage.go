package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func usageCommand(a *app) *cobra.Command {
	var platform, snapshotter string
	var bytes bool
	cmd := &cobra.Command{
		Use:     "usage REF",
		Short:   "What the snapshots of an image take: bytes and inodes",
		Long:    "Lists the snapshots of an image's chain, lowest first, with the bytes and inodes that each adds.",
		Example: "  stowage image usage alpine",
		Args:    cobra.ExactArgs(1),
	}
	out := formatFlag(cmd, "table")
	addPlatform(cmd, &platform)
	addSnapshotter(cmd, &snapshotter)
	cmd.Flags().BoolVarP(&bytes, "bytes", "b", false, "sizes in bytes")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := onePlatform(platform)
		if err != nil {
			return err
		}
		s, err := a.local()
		if err != nil {
			return err
		}
		list, err := s.ImageUsage(cmd.Context(), args[0], p, snapshotter)
		if errdefs.IsNotFound(err) {
			return hinted{err, "`stowage pull` and `stowage image mount` unpack an image"}
		}
		if err != nil {
			return err
		}
		return printUsage(a, out, list, bytes)
	}
	return cmd
}

// printUsage prints what snapshots take. Exact sizes are in bytes, others are for people.
func printUsage(a *app, out *format, list []stowage.LayerUsage, exact bool) error {
	return out.print(a.out, list, anys(list), func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "KEY\tSIZE\tINODES")
		for _, u := range list {
			size := humanSize(u.Size)
			if exact {
				size = fmt.Sprint(u.Size)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\n", u.Key, size, u.Inodes)
		}
	})
}
