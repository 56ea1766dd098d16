package flock_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/kv/flock"
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
