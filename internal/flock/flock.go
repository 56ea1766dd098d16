// Package flock takes advisory locks that every process of the machine sees, and that the kernel
// drops when their owner closes the file or dies.
package flock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Mode says with whom a lock is shared.
type Mode int

// The modes.
const (
	Shared    Mode = unix.LOCK_SH
	Exclusive Mode = unix.LOCK_EX
)

// The wait between two tries doubles from minWait to maxWait: transactions take about a
// millisecond, and 200 tries a second cost nothing.
const (
	minWait = 200 * time.Microsecond
	maxWait = 5 * time.Millisecond
)

// Lock takes the lock of f, and waits for it until ctx ends. Two open files of one name are two
// owners, in one process too.
func Lock(ctx context.Context, f *os.File, m Mode) error {
	for wait := minWait; ; wait = min(2*wait, maxWait) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if ok, err := TryLock(f, m); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// TryLock is Lock without waiting: false if another open file has the lock.
func TryLock(f *os.File, m Mode) (bool, error) {
	for {
		switch err := unix.Flock(int(f.Fd()), int(m)|unix.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}

// Unlock gives up the lock of f. Closing f does so too, but not while a mapping keeps it open.
func Unlock(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return nil
}

// Current reports whether the name that f was opened by still leads to f. A lock on a file that
// has been replaced or removed locks nobody out.
func Current(f *os.File) (bool, error) {
	there, err := os.Stat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	here, err := f.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(here, there), nil
}

// Open opens a file by open, and takes its lock as [Lock] does. A file that was replaced or removed
// meanwhile is opened anew, so that whoever holds the lock of the name holds it alone. The caller
// closes it. Errors of open come as they are.
func Open(ctx context.Context, m Mode, open func() (*os.File, error)) (*os.File, error) {
	return lockCurrent(open, func(f *os.File) (bool, error) { return true, Lock(ctx, f, m) })
}

// TryOpen is Open without waiting: nil if another open file has the lock.
func TryOpen(m Mode, open func() (*os.File, error)) (*os.File, error) {
	return lockCurrent(open, func(f *os.File) (bool, error) { return TryLock(f, m) })
}

func lockCurrent(open func() (*os.File, error), lock func(*os.File) (bool, error)) (*os.File, error) {
	for {
		f, err := open()
		if err != nil {
			return nil, err
		}
		ok, err := lock(f)
		current := false
		if err == nil && ok {
			if current, err = Current(f); current {
				return f, nil
			}
		}
		if err := errors.Join(err, f.Close()); err != nil || !ok {
			return nil, err
		}
	}
}
