package main

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func mountCommand(a *app) *cobra.Command {
	var o stowage.MountOptions
	var platform string
	var reg registryFlags
	cmd := &cobra.Command{
		Use:   "mount REF DIR",
		Short: "Mount an image's filesystem, read-only unless --rw",
		Long: `Mounts the root filesystem of an image at DIR, which is made if it is not there. An image
that is not unpacked yet is unpacked first; what was evicted of it is fetched for that. With --rw what is written
goes into a snapshot called like DIR, which outlives the mount: mounting the image there
with --rw again goes on with it. "image unmount" ends the mount.

Prints DIR. Mounting takes root, or a user namespace of one's own: unshare -Urm stowage …`,
		Example: `  stowage image mount alpine /mnt
  stowage image mount --rw --platform linux/arm64 alpine /mnt`,
		Args: cobra.ExactArgs(2),
	}
	addPlatform(cmd, &platform)
	addSnapshotter(cmd, &o.Snapshotter)
	reg.add(cmd)
	cmd.Flags().BoolVar(&o.Writable, "rw", false, "writable, in a snapshot called like DIR")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if o.Platform, err = onePlatform(platform); err != nil {
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
		o.Progress = d.sink
		err = s.MountImage(cmd.Context(), args[0], args[1], o)
		d.wait()
		if err != nil {
			return mountHint(err)
		}
		fmt.Fprintln(a.out, args[1])
		return nil
	}
	return cmd
}

// mountHint adds what helps who may not mount.
func mountHint(err error) error {
	if errdefs.IsPermissionDenied(err) {
		return hinted{err, "mounting takes root, or a user namespace: unshare -Urm stowage …"}
	}
	return err
}

func unmountCommand(a *app) *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use: "unmount DIR", Aliases: []string{"umount"}, Short: "End a mount of an image",
		Long: `Ends what "image mount" began. A read-only mount leaves nothing behind. What was written to
a writable one stays in the snapshot called like DIR, unless --rm removes it.`,
		Example: "  stowage image unmount /mnt",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&remove, "rm", false, "remove the snapshot of a writable mount as well")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		kept, err := s.UnmountImage(cmd.Context(), args[0], remove)
		if errdefs.IsFailedPrecondition(err) {
			return hinted{err, "end the programs that use it: fuser -m " + args[0]}
		}
		if err != nil {
			return err
		}
		if kept {
			fmt.Fprintf(a.err, "what was written is kept in snapshot %s\n", args[0])
		}
		return nil
	}
	return cmd
}

// addPlatform adds --platform to a command that is about one.
func addPlatform(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "platform", "", "platform, such as linux/arm64 (default the host's, or the only one)")
}

// onePlatform reads --platform; nil if it was not given.
func onePlatform(text string) (*stowage.Platform, error) {
	if text == "" {
		return nil, nil
	}
	p, err := stowage.ParsePlatform(text)
	if err != nil {
		return nil, usagef("--platform %s: %w", text, err)
	}
	return &p, nil
}

// addSnapshotter adds --snapshotter.
func addSnapshotter(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, snapshotterFlag, "", "overlay, erofs, native, one that is configured, or what the daemon at --address has (STOWAGE_SNAPSHOTTER, then CONTAINERD_SNAPSHOTTER; default the best that works)")
}

const snapshotterFlag = "snapshotter"

// checkSnapshotter takes only names that there are; those of a daemon it knows by itself.
func (a *app) checkSnapshotter(cmd *cobra.Command) error {
	f := cmd.Flags().Lookup(snapshotterFlag)
	if f == nil || a.conf.Address != "" {
		return nil
	}
	if err := stowage.CheckSnapshotter(f.Value.String(), a.proxies()); err != nil {
		return usageError{err}
	}
	return nil
}

// addUnpack adds the flags of commands that also unpack.
func addUnpack(cmd *cobra.Command, o *stowage.UnpackOptions) {
	addSnapshotter(cmd, &o.Snapshotter)
	cmd.Flags().BoolVar(&o.NoUnpack, "no-unpack", false, "only store the blobs; \"image mount\" unpacks later")
}
