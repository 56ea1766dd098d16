package main

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

func unpackCommand(a *app) *cobra.Command {
	var platform string
	var reg registryFlags
	cmd := &cobra.Command{
		Use:   "unpack REF DIR",
		Short: "Write an image's root filesystem as plain files into an empty folder",
		Long: `Writes the root filesystem of an image as plain files into DIR, which is made if it is not
there and must be empty. It uses the stored blobs, and needs neither snapshots nor mounts.
Layers that were evicted are fetched from where they came from, and stay.
What the filesystem cannot keep, such as an owner that a user namespace does not have, is
an error for root and listed on standard error otherwise.

Prints DIR.`,
		Example: "  stowage image unpack alpine ./rootfs",
		Args:    cobra.ExactArgs(2),
	}
	addPlatform(cmd, &platform)
	reg.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := onePlatform(platform)
		if err != nil {
			return err
		}
		ro, err := a.registry(&reg)
		if err != nil {
			return err
		}
		d, err := a.draw()
		if err != nil {
			return err
		}
		s, err := a.open(ro)
		if err != nil {
			return err
		}
		losses, err := s.UnpackImage(cmd.Context(), args[0], args[1], p, d.sink)
		d.wait()
		if errdefs.IsAlreadyExists(err) {
			return hinted{err, "choose an empty folder, or one that is not there"}
		}
		if err != nil {
			return err
		}
		for _, l := range losses {
			fmt.Fprintf(a.err, "warning: unpacked without the %s\n", l)
		}
		fmt.Fprintln(a.out, args[1])
		return nil
	}
	return cmd
}
