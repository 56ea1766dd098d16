package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
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
	beside  func(ctx context.Context, dir string) (*daemon, error) // runs all the time; may be nil
	prepare func(dir string) []string                              // not measured; may be nil
	command func(dir string) []string
	out     io.Writer                 // takes what command prints; may be nil
	check   func(dir string) []string // not measured, fails if command did not do its work; may be nil
}

// measure runs a step in a place of its own.
func (b *bench) measure(ctx context.Context, where place, s step) (one sample, err error) {
	dir, drop, err := where(ctx)
	if err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	var watched []int
	if s.beside != nil {
		d, failed := s.beside(ctx, dir)
		if failed != nil {
			return sample{}, failed
		}
		defer func() { err = errors.Join(err, d.stop()) }()
		watched = append(watched, d.cmd.Process.Pid)
	}
	syscall.Sync() // nobody pays for what others wrote
	if s.prepare != nil {
		if _, err := runProcess(ctx, s.prepare(dir)); err != nil {
			return sample{}, err
		}
	}
	if one, err = runInto(ctx, s.out, s.command(dir), watched...); err != nil || s.check == nil {
		return one, err
	}
	_, err = runProcess(ctx, s.check(dir))
	return one, err
}

// turns measures the steps one after the other, again and again.
func (b *bench) turns(ctx context.Context, where place, steps ...step) ([][]sample, error) {
	all := make([][]sample, len(steps))
	for range b.runs {
		for i, s := range steps {
			one, err := b.measure(ctx, where, s)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], one)
		}
	}
	return all, nil
}

// runProcess runs a command and fails with what it said if it does. Its peak is that of the
// command, of the processes beside it, and of all their children.
func runProcess(ctx context.Context, args []string, beside ...int) (sample, error) {
	return runInto(ctx, nil, args, beside...)
}

// runInto is runProcess that hands on what the command prints.
func runInto(ctx context.Context, out io.Writer, args []string, beside ...int) (sample, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	ended := make(chan struct{})
	peak := make(chan int64)
	go func() { peak <- watchPeak(append(beside, cmd.Process.Pid), ended) }()
	err := cmd.Wait()
	s := sample{wall: time.Since(start)}
	close(ended)
	s.peak = <-peak
	if err != nil {
		return s, fmt.Errorf("%s: %w\n%s", strings.Join(args[:min(len(args), 6)], " "), err, said.Bytes())
	}
	return s, nil
}

// stowage is a command on the store in root.
func (b *bench) stowage(root string, args ...string) []string {
	return append([]string{b.binary, "--root", root, "--progress", "none"}, args...)
}
