// Bench measures whole runs of stowage beside other programs: on one machine, from one registry,
// with the same images, in turns. make bench runs it.
//
// It prints a Markdown table and exits with 1 when a run took more than is asked of it. All sides
// start with empty stores; what earlier runs left to be written is flushed before each clock
// starts. Runs that unpack work on a filesystem made for each of them, on a loop device, and need
// root. The environment tunes it:
//
//	BENCH             only cases whose name begins with this, such as pull
//	BENCH_RUNS        how often each side of a case runs; 5
//	BENCH_DIR         where images are made, kept for the next time, and worked on, which takes
//	                  20 GB; a temporary folder
//	BENCH_CONTAINERD  a folder with containerd, ctr and, of erofs-utils from 1.8.2, mkfs.erofs; rows
//	                  beside containerd are not run without
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	runs := 5
	if s := os.Getenv("BENCH_RUNS"); s != "" {
		if runs, err = strconv.Atoi(s); err != nil || runs < 1 {
			return fmt.Errorf("BENCH_RUNS=%s: want a number from 1", s)
		}
	}
	// mkfs, mount and their like are for root, and not on the PATH of everybody.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	binary, err := filepath.Abs("bin/stowage")
	if err != nil {
		return err
	}
	dir := os.Getenv("BENCH_DIR")
	if dir == "" {
		if dir, err = os.MkdirTemp("", "stowage-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else if dir, err = filepath.Abs(dir); err != nil {
		return err
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as the kernel lists mounts
		return err
	}
	b := &bench{binary: binary, dir: dir, runs: runs}
	// A bench that was killed may have left mounts in its work folder.
	if err := errors.Join(b.clear(), os.MkdirAll(b.work(), 0o755), os.MkdirAll(b.kept(), 0o755)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.clear()) }()
	registry, err := registrytest.StartDebian(ctx, b.kept())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Stop()) }()
	b.host = registry.Host

	var results []result
	for _, c := range cases {
		if !strings.HasPrefix(c.name, os.Getenv("BENCH")) {
			continue
		}
		fmt.Fprintln(os.Stderr, "bench:", c.name)
		rows, err := c.run(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		results = append(results, rows...)
	}
	if over := printTable(os.Stdout, results); over > 0 {
		return fmt.Errorf("%d of %d rows are over what is asked", over, len(results))
	}
	return nil
}

// A bench is what all cases share.
type bench struct {
	binary string // stowage
	dir    string
	host   string // the registry
	runs   int

	listed  bool     // apt's lists of packages are of today
	keeping []result // of the smaller store, which the larger is compared with
}

// kept is the folder for what the next bench can use again; work is removed at the end.
func (b *bench) kept() string { return filepath.Join(b.dir, "kept") }
func (b *bench) work() string { return filepath.Join(b.dir, "work") }

// clear removes the work folder.
func (b *bench) clear() error {
	if err := unmountBeneath(b.work()); err != nil {
		return err
	}
	return os.RemoveAll(b.work())
}
