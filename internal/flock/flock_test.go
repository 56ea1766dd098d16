package flock_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/flock"
)

func open(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // some are closed by the test
	return f
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	a, b := open(t, name), open(t, name)
	for _, m := range []flock.Mode{flock.Shared, flock.Exclusive} {
		if err := flock.Lock(t.Context(), a, m); err != nil {
			t.Fatal(err)
		}
		if got, err := flock.TryLock(b, flock.Exclusive); err != nil || got {
			t.Fatalf("second owner beside mode %d: got %t, %v, want false", m, got, err)
		}
	}

	cause := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Millisecond, cause)
	defer cancel()
	if err := flock.Lock(ctx, b, flock.Shared); !errors.Is(err, cause) {
		t.Fatalf("wait ended by its context: got %v, want %v", err, cause)
	}

	locked := make(chan error)
	go func() { locked <- flock.Lock(t.Context(), b, flock.Exclusive) }()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Fatalf("after the owner closed its file: %v", err)
	}
}

func TestCurrent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	f := open(t, name)
	check := func(when string, want bool) {
		t.Helper()
		if got, err := flock.Current(f); err != nil || got != want {
			t.Fatalf("%s: got %t, %v, want %t", when, got, err, want)
		}
	}
	check("fresh", true)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	check("removed", false)
	open(t, name)
	check("replaced", false)
}

// Whoever waited for a file that is gone by then has the lock of the one that took its place.
func TestOpenReplaced(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	old := open(t, name)
	if err := flock.Lock(t.Context(), old, flock.Exclusive); err != nil {
		t.Fatal(err)
	}
	opened := 0
	again := func() (*os.File, error) {
		opened++
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if opened == 1 { // it is waited for from now on
			err = errors.Join(err, os.Remove(name), old.Close())
		}
		return f, err
	}
	f, err := flock.Open(t.Context(), flock.Exclusive, again)
	if err != nil || opened != 2 {
		t.Fatalf("got %v after %d openings, want a lock after 2", err, opened)
	}
	defer func() { _ = f.Close() }() // it was only locked
	if current, err := flock.Current(f); err != nil || !current {
		t.Errorf("the lock is of the name: %t, %v", current, err)
	}
	other := func() (*os.File, error) { return os.Open(name) }
	if f, err := flock.TryOpen(flock.Shared, other); f != nil || err != nil {
		t.Errorf("while it is locked: got %v, %v, want nothing", f, err)
	}
	if f, err := flock.TryOpen(flock.Shared, func() (*os.File, error) { return os.Open(name + "x") }); f != nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: got %v, %v", f, err)
	}
}
