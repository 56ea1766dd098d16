package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/content"
)

func TestEvery(t *testing.T) {
	for _, c := range []struct {
		name     string
		interval time.Duration
		want     []time.Duration // from the start
	}{
		{"rarely", time.Hour, []time.Duration{time.Minute, 61 * time.Minute, 121 * time.Minute}},
		{"often", 40 * time.Minute, []time.Duration{time.Minute, 41 * time.Minute, 81 * time.Minute, 121 * time.Minute}},
		{"very often", time.Second, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}},
		{"never", 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 130*time.Minute)
				defer cancel()
				began := time.Now()
				var got []time.Duration
				newDaemon(Options{}).every(ctx, "test", c.interval, func(context.Context) error {
					if got = append(got, time.Since(began)); len(got) == 3 && c.interval == time.Second {
						cancel()
					}
					return errors.New("which does not end it")
				})
				if !slices.Equal(got, c.want) {
					t.Errorf("done at %v, want %v", got, c.want)
				}
			})
		})
	}
}

// A collection on schedule takes what no image needs any more, and an examination says what is wrong.
func TestCollectAndExamine(t *testing.T) {
	ctx := t.Context()
	root := filepath.Join(t.TempDir(), "store")
	store, err := stowage.Open(root, stowage.Options{GC: stowage.GCOptions{Grace: -1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	body := []byte("a layer that no image has")
	if err := content.Put(ctx, store.Content(), digest.FromBytes(body), body); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d := newDaemon(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	for _, do := range []func(context.Context, *stowage.Store) error{d.examine, d.collect, d.examine} {
		if err := do(ctx, store); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"kind=orphan-blob findings=1", "msg=collected blobs=1 bytes=25 "} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%d times %q, want once; the log:\n%s", n, want, log.String())
		}
	}
}
