package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A place gives a step an empty folder to work in, and takes it away again. drop is called
// whatever happened in between.
type place func(ctx context.Context) (dir string, drop func() error, err error)

// folder is a place on the filesystem that the bench works on.
func (b *bench) folder(context.Context) (string, func() error, error) {
	dir, err := os.MkdirTemp(b.work(), "run-")
	return dir, func() error { return os.RemoveAll(dir) }, err
}

// scratchSize is the size of a filesystem made for one run. Its file is sparse: it takes the room
// of what is written to it.
const scratchSize = 24 << 30

// ext4 is a place on a filesystem of its own, with a journal, as mkfs.ext4 makes it when nothing
// is asked of it. It is made anew for each run: where a filesystem puts files, and what it has
// left to do, depends on what it went through.
func (b *bench) ext4(ctx context.Context) (dir string, drop func() error, err error) {
	room, err := os.MkdirTemp(b.work(), "ext4-")
	if err != nil {
		return "", nil, err
	}
	disk := filepath.Join(room, "disk")
	dir = filepath.Join(room, "fs")
	drop = func() error { return errors.Join(unmountBeneath(room), os.RemoveAll(room)) }
	err = errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, scratchSize), os.Mkdir(dir, 0o755))
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", disk},
		{"mount", "-o", "loop", disk, dir}, // the loop device goes when it is unmounted
	} {
		if err == nil {
			_, err = runProcess(ctx, command)
		}
	}
	if err != nil {
		return "", nil, errors.Join(err, drop())
	}
	return dir, drop, nil
}

// unmountBeneath unmounts everything in a folder, the newest first. Processes that were killed
// need a moment to let go.
func unmountBeneath(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		mounts, err := mountsBeneath(dir)
		if err != nil {
			return err
		}
		for _, target := range slices.Backward(mounts) {
			if one := syscall.Unmount(target, 0); one != nil {
				err = errors.Join(err, fmt.Errorf("unmount %s: %w", target, one))
			}
		}
		if err == nil || !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// mountsBeneath lists the mount points in a folder, in the order of their mounting.
func mountsBeneath(dir string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if target := unescape.Replace(fields[4]); strings.HasPrefix(target, dir+"/") {
			found = append(found, target)
		}
	}
	return found, nil
}

// unescape undoes what the kernel does to names in its table of mounts.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
