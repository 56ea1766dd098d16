package vfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stowage/stowage/internal/vfs"
)

func TestSend(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<20+1) // more than one piece
	for name, open := range disks() {
		t.Run(name, func(t *testing.T) {
			disk := open(t)
			write(t, disk, "f", string(want))
			for _, to := range []string{"file", "buffer"} {
				f, err := disk.Open("f")
				must(t, err)
				var got []byte
				if to == "file" {
					out, err := os.Create(filepath.Join(t.TempDir(), "out"))
					must(t, err)
					n, err := vfs.Send(t.Context(), out, f, int64(len(want)))
					if n != int64(len(want)) || err != nil {
						t.Errorf("got %d, %v, want %d", n, err, len(want))
					}
					got, err = os.ReadFile(out.Name())
					must(t, err)
					must(t, out.Close())
				} else {
					var b bytes.Buffer
					_, err := vfs.Send(t.Context(), &b, f, int64(len(want)))
					must(t, err)
					got = b.Bytes()
				}
				if !bytes.Equal(got, want) {
					t.Errorf("to a %s: other bytes", to)
				}
				closed(t, f)
			}
		})
	}
}

func TestSendEnds(t *testing.T) {
	disk := openOS(t)
	write(t, disk, "f", "short")
	f, err := disk.Open("f")
	must(t, err)
	defer closed(t, f)
	if n, err := vfs.Send(t.Context(), io.Discard, f, 6); n != 5 || !errors.Is(err, io.EOF) {
		t.Errorf("a file that became shorter: got %d, %v, want 5, %v", n, err, io.EOF)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := vfs.Send(ctx, io.Discard, f, 5); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %d, %v", n, err)
	}
}

func TestChangedAt(t *testing.T) {
	disk := openOS(t)
	write(t, disk, "f", "x")
	fi, err := disk.Lstat("f")
	must(t, err)
	if vfs.ChangedAt(fi).IsZero() {
		t.Error("a real disk does not tell")
	}
	mem := vfs.NewMem()
	write(t, mem, "f", "x")
	fi, err = mem.Lstat("f")
	must(t, err)
	if !vfs.ChangedAt(fi).IsZero() {
		t.Error("a memory disk tells")
	}
}
