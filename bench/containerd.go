package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// A containerd is a way to set containerd up. Every way runs from the folder BENCH_CONTAINERD,
// which holds containerd, ctr and, for its erofs, a mkfs.erofs that takes the options below (from
// erofs-utils 1.8.2).
type containerd struct {
	how         string // in the table
	snapshotter string
	serial      bool // one layer at a time, inflated in the daemon itself: as it comes
	ranges      bool // several connections for one layer
	tarIndex    bool // erofs: an index beside the tar, in place of a filesystem made of it
}

// containerds are the ways that are measured. Which is the best differs from image to image.
var containerds = []containerd{
	{how: "overlayfs as it comes, gzip in Go", snapshotter: "overlayfs", serial: true},
	{how: "overlayfs", snapshotter: "overlayfs"},
	{how: "overlayfs, ranges", snapshotter: "overlayfs", ranges: true},
	{how: "erofs", snapshotter: "erofs"},
	{how: "erofs, tar index", snapshotter: "erofs", tarIndex: true},
}

// config is what containerd reads, with its data in dir. What no pull needs is left out of it.
func (c containerd) config(dir string) string {
	// Its own defaults, or more layers than cores: reading, inflating and writing take turns.
	downloads, unpacks, buffer := 3, 1, 0
	if !c.serial {
		unpacks = 2 * runtime.NumCPU()
		downloads = max(downloads, unpacks)
	}
	if c.ranges {
		buffer = 8 << 20
	}
	differ := "walking"
	if c.snapshotter == "erofs" {
		differ = "erofs"
	}
	return fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = [
  "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
  "io.containerd.nri.v1.nri", "io.containerd.podsandbox.controller.v1.podsandbox",
]
[grpc]
  address = %q
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_downloads = %d
  max_concurrent_unpacks = %d
  concurrent_layer_fetch_buffer = %d
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/%s"
    snapshotter = %q
    differ = %q
[plugins."io.containerd.differ.v1.erofs"]
  mkfs_options = ["-T0", "--mkfs-time", "--sort=none"]
  enable_tar_index = %t
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket(dir), downloads, unpacks, buffer,
		runtime.GOARCH, c.snapshotter, differ, c.tarIndex)
}

func socket(dir string) string { return filepath.Join(dir, "socket") }

// step pulls and unpacks through a daemon that runs already.
func (c containerd) step(folder, image, reference string) step {
	ctr := func(dir string, args ...string) []string {
		return append([]string{filepath.Join(folder, "ctr"), "--address", socket(dir)}, args...)
	}
	return step{
		beside: func(ctx context.Context, dir string) (*daemon, error) {
			config := filepath.Join(dir, "config.toml")
			if err := os.WriteFile(config, []byte(c.config(dir)), 0o600); err != nil {
				return nil, err
			}
			env := append(os.Environ(), c.path(folder), "CONTAINERD_DISABLE_PIGZ=1")
			if c.serial {
				env = append(env, "CONTAINERD_DISABLE_IGZIP=1")
			}
			d, err := startDaemon(env, filepath.Join(folder, "containerd"), "--config", config)
			if err != nil {
				return nil, err
			}
			if err := d.answers(ctx, ctr(dir, "version")); err != nil {
				return nil, errors.Join(err, d.stop())
			}
			return d, nil
		},
		command: func(dir string) []string {
			return ctr(dir, "image", "pull", "--plain-http", "--snapshotter", c.snapshotter, reference)
		},
		check: func(dir string) []string {
			return unpacked(image, ctr(dir, "snapshots", "--snapshotter", c.snapshotter, "ls"))
		},
	}
}

// version names containerd and the programs that it is to run.
func (c containerd) version(ctx context.Context, folder string) (string, error) {
	name, err := said(ctx, 2, filepath.Join(folder, "containerd"), "--version")
	if err != nil {
		return "", err
	}
	name = "containerd " + name + ", " + c.how
	if !c.serial {
		igzip, err := said(ctx, 4, "igzip", "--version")
		if err != nil {
			return "", fmt.Errorf("%w (Debian package isal)", err)
		}
		name += ", igzip " + igzip
	}
	if c.snapshotter == "erofs" {
		mkfs, err := said(ctx, 2, "env", c.path(folder), "mkfs.erofs", "--version")
		if err != nil {
			return "", err
		}
		name += ", mkfs.erofs " + mkfs
	}
	return name, nil
}

// path is a setting of the environment with which what is in folder comes first.
func (c containerd) path(folder string) string { return "PATH=" + folder + ":" + os.Getenv("PATH") }
