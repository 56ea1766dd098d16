package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/stowage/stowage/internal/content/mem"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	kvmem "github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/transfer"
)

// The registry that runs in this process has goroutines without an end.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/docker/go-events.(*Broadcaster).run"))
}

func fresh(t *testing.T) transfer.Store {
	t.Helper()
	return transfer.Store{Content: mem.New(), Meta: metadata.New(kvmem.New(), t.TempDir()), Namespace: "default"}
}

// TestWrongBytes gives wrong bytes for a layer: nothing is named, nothing of it is kept.
func TestWrongBytes(t *testing.T) {
	img := build(t, 400_000)
	s := fresh(t)
	reg := &fakeRegistry{img: img, hook: func(d image.Descriptor, _ int64, body io.Reader) (io.Reader, error) {
		b, err := io.ReadAll(body)
		b[len(b)/2] ^= 1
		return bytes.NewReader(b), err
	}}
	_, err := transfer.Pull(t.Context(), s, reg, parse(t, "example.com/app:1"), transfer.PullOptions{})
	if !errdefs.IsDataLoss(err) {
		t.Fatalf("got %v, want data loss", err)
	}
	if images, err := s.Meta.Images(t.Context(), "default"); err != nil || len(images) != 0 {
		t.Errorf("images = %v, %v, want none", images, err)
	}
}

// TestResumeFromWrongBytes has an earlier try leave bytes that are wrong: the pull notices at the
// end, and begins that blob once more.
func TestResumeFromWrongBytes(t *testing.T) {
	img := build(t, 400_000)
	s := fresh(t)
	var mu sync.Mutex
	broken := true
	reg := &fakeRegistry{img: img, hook: func(d image.Descriptor, offset int64, body io.Reader) (io.Reader, error) {
		mu.Lock()
		defer mu.Unlock()
		if d.Size < 100_000 || !broken {
			return body, nil
		}
		broken = false
		half := make([]byte, d.Size/2) // zeros
		return io.MultiReader(bytes.NewReader(half), iotest.ErrReader(errors.New("gone"))), nil
	}}
	r := parse(t, "example.com/app:1")
	if _, err := transfer.Pull(t.Context(), s, reg, r, transfer.PullOptions{}); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Fatalf("got %v, want the fault", err)
	}
	var started []int64
	sink := progress.Serial(func(e progress.Event) {
		if e.Kind == progress.Started && e.Total > 100_000 {
			started = append(started, e.Offset)
		}
	})
	if _, err := transfer.Pull(t.Context(), s, reg, r, transfer.PullOptions{Progress: sink}); err != nil {
		t.Fatal(err)
	}
	if len(started) != 1 || started[0] == 0 {
		t.Errorf("the layer was started at %v, want once, past 0", started)
	}
	if !mustBeWhole(t, s, "after the second try") {
		t.Error("not complete")
	}
}

// TestCrossedPulls pulls two images with the same layers in opposite orders at once, one blob at
// a time: neither may wait for the other while it keeps it waiting.
func TestCrossedPulls(t *testing.T) {
	tars := []imagetest.Tar{imagetest.Seeded(1, 50_000), imagetest.Seeded(2, 50_000), imagetest.Seeded(3, 50_000)}
	forth, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...)}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	back, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars[2], tars[1], tars[0])}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	slow := func(d image.Descriptor, _ int64, body io.Reader) (io.Reader, error) {
		time.Sleep(5 * time.Millisecond)
		return body, nil
	}
	for range 10 {
		s := fresh(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var wg sync.WaitGroup
		for name, img := range map[string]*imagetest.Image{"example.com/forth:1": forth, "example.com/back:1": back} {
			wg.Add(1)
			go func() {
				defer wg.Done()
				reg := &fakeRegistry{img: img, hook: slow}
				if _, err := transfer.Pull(ctx, s, reg, parse(t, name), transfer.PullOptions{Streams: 1}); err != nil {
					t.Errorf("pull %s: %v", name, err)
				}
			}()
		}
		wg.Wait()
		cancel()
		mustBeWhole(t, s, "after both")
	}
}

// TestSameAgain exports the same images twice, and in another store: the same bytes.
func TestSameAgain(t *testing.T) {
	img := build(t, 10_000, 300_000)
	export := func(s transfer.Store) []byte {
		var b bytes.Buffer
		if err := transfer.Export(t.Context(), s, &b, []string{"example.com/app:1"}, transfer.ExportOptions{}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	one, two := fresh(t), fresh(t)
	pull(t, one, img)
	pull(t, two, img)
	if a, b := export(one), export(two); !bytes.Equal(a, b) {
		t.Errorf("two stores give different bytes: %d and %d", len(a), len(b))
	}
	three := fresh(t)
	if _, err := transfer.Import(t.Context(), three, bytes.NewReader(export(one)), transfer.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	if a, b := export(one), export(three); !bytes.Equal(a, b) {
		t.Errorf("after an import the bytes differ: %d and %d", len(a), len(b))
	}
}

// TestImportCut cuts an archive at many lengths: never a name, never a panic, always an error.
func TestImportCut(t *testing.T) {
	img := build(t, 5_000, 30_000)
	s := fresh(t)
	pull(t, s, img)
	var whole bytes.Buffer
	if err := transfer.Export(t.Context(), s, &whole, []string{"example.com/app:1"}, transfer.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	end := whole.Len() - 1024 // the last two blocks only say that it ends
	for n := 0; n < end; n += 997 {
		s := fresh(t)
		if _, err := transfer.Import(t.Context(), s, bytes.NewReader(whole.Bytes()[:n]), transfer.ImportOptions{}); err == nil {
			t.Errorf("cut at %d of %d: no error", n, whole.Len())
		}
		if images, err := s.Meta.Images(t.Context(), "default"); err != nil || len(images) != 0 {
			t.Errorf("cut at %d: images = %v, %v, want none", n, images, err)
		}
	}
}

// TestWriteFile sees that a file has its name only when it is complete.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x.tar")
	fault := errors.New("half way")
	err := transfer.WriteFile(name, false, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half"); err != nil {
			return err
		}
		return fault
	})
	if !errors.Is(err, fault) {
		t.Errorf("got %v, want the fault", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, text := range []string{"one", "two"} {
		if err := transfer.WriteFile(name, false, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != text {
			t.Errorf("got %q, %v, want %q", b, err, text)
		}
	}
	if err := transfer.WriteFile(dir, false, func(io.Writer) error { return nil }); !errdefs.IsInvalidArgument(err) {
		t.Errorf("writing to a folder: %v, want invalid argument", err)
	}
}
