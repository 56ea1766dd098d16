package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A sample is one run of a process.
type sample struct {
	wall time.Duration
	peak int64 // bytes of memory
}

// A step is one side of a case: commands that work in dir, which is empty at first.
type step struct {
	prepare func(dir string) []string // not measured; may be nil
	command func(dir string) []string
}

// measure runs a step in a fresh folder, which is removed afterwards.
func (b *bench) measure(ctx context.Context, s step) (sample, error) {
	dir, err := os.MkdirTemp(b.work(), "run-")
	if err != nil {
		return sample{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the work folder goes at the end
	syscall.Sync()                           // nobody pays for what others wrote
	if s.prepare != nil {
		if _, err := runProcess(ctx, s.prepare(dir)); err != nil {
			return sample{}, err
		}
	}
	return runProcess(ctx, s.command(dir))
}

// turns measures the steps one after the other, again and again.
func (b *bench) turns(ctx context.Context, steps ...step) ([][]sample, error) {
	all := make([][]sample, len(steps))
	for range b.runs {
		for i, s := range steps {
			one, err := b.measure(ctx, s)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], one)
		}
	}
	return all, nil
}

// runProcess runs a command and fails with what it said if it does.
func runProcess(ctx context.Context, args []string) (sample, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	ended := make(chan struct{})
	peak := make(chan int64)
	go func() { peak <- watchPeak(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	s := sample{wall: time.Since(start)}
	close(ended)
	s.peak = <-peak
	if err != nil {
		return s, fmt.Errorf("%s: %w\n%s", strings.Join(args[:min(len(args), 6)], " "), err, said.Bytes())
	}
	return s, nil
}

// watchPeak follows the most memory that a process ever had. The kernel's account at the end of
// a child (ru_maxrss) would do, if it did not begin with the memory of the parent that forked it.
func watchPeak(pid int, ended <-chan struct{}) int64 {
	status := filepath.Join("/proc", strconv.Itoa(pid), "status")
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var peak int64
	for {
		peak = max(peak, highWater(status))
		select {
		case <-ended:
			return peak
		case <-tick.C:
		}
	}
}

// highWater reads VmHWM; zero once the process has ended.
func highWater(status string) int64 {
	text, err := os.ReadFile(status)
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	line, _, _ := strings.Cut(after, "\n")
	kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	return kib << 10
}

// stowage is a command on the store in root.
func (b *bench) stowage(root string, args ...string) []string {
	return append([]string{b.binary, "--root", root, "--progress", "none"}, args...)
}

// skopeo copies from one place to another, with no signature policy to find.
func skopeo(from, to string) []string {
	return []string{"skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", from, to}
}
