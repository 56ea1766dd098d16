package transfer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	kvmem "github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/transfer"
	"github.com/stowage/stowage/internal/vfs"
)

// A fakeRegistry answers from an image in memory; hook may replace what it gives of a blob.
type fakeRegistry struct {
	img  *imagetest.Image
	hook func(d image.Descriptor, offset int64, body io.Reader) (io.Reader, error)
}

func (f *fakeRegistry) Resolve(context.Context, ref.Reference) (registry.Resolved, error) {
	return registry.Resolved{Descriptor: f.img.Root}, nil
}

func (f *fakeRegistry) Manifest(_ context.Context, _ ref.Reference, d image.Descriptor) ([]byte, error) {
	b, ok := f.img.Blob(d.Digest)
	if !ok {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, errdefs.ErrNotFound)
	}
	return b.Bytes()
}

func (f *fakeRegistry) Blob(_ context.Context, _ ref.Reference, d image.Descriptor, offset int64, _ func(error)) (io.ReadCloser, error) {
	b, ok := f.img.Blob(d.Digest)
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, errdefs.ErrNotFound)
	}
	body, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	var r io.Reader = bytes.NewReader(body[offset:])
	if f.hook != nil {
		if r, err = f.hook(d, offset, r); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(r), nil
}

// build makes an image of layers of these sizes.
func build(t *testing.T, sizes ...int64) *imagetest.Image {
	t.Helper()
	var tars []imagetest.Tar
	for i, n := range sizes {
		tars = append(tars, imagetest.Seeded(uint64(i+1), n))
	}
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...)}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func parse(t *testing.T, s string) ref.Reference {
	t.Helper()
	r, err := ref.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mustBeWhole sees that what the rows call complete is there and verifies.
func mustBeWhole(t *testing.T, s transfer.Store, when string) (complete bool) {
	t.Helper()
	images, err := s.Meta.Images(t.Context(), s.Namespace)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	for _, img := range images {
		if img.State != metadata.Complete {
			continue
		}
		complete = true
		blobs, err := s.Meta.Blobs(t.Context(), s.Namespace)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		for _, b := range blobs {
			if _, err := content.ReadBlob(t.Context(), s.Content, b.Digest, 1<<30); err != nil {
				t.Fatalf("%s: %s is listed as complete, but: %v", when, img.Name, err)
			}
		}
	}
	return complete
}

// TestFaultLoop fails every disk call of an operation in turn and then cuts the power. What the
// rows call complete is whole all the same, and the same operation then succeeds.
func TestFaultLoop(t *testing.T) {
	img := build(t, 3_000, 700_000, 20_000)
	var tar bytes.Buffer
	{
		s := open(t, vfs.NewMem(), metadata.New(kvmem.New(), t.TempDir()))
		pull(t, s, img)
		if err := transfer.Export(t.Context(), s, &tar, []string{"example.com/app:1"}, transfer.ExportOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, act := range map[string]func(context.Context, transfer.Store) error{
		"pull": func(ctx context.Context, s transfer.Store) error {
			_, err := transfer.Pull(ctx, s, &fakeRegistry{img: img}, parse(t, "example.com/app:1"), transfer.PullOptions{Streams: 1})
			return err
		},
		"import": func(ctx context.Context, s transfer.Store) error {
			_, err := transfer.Import(ctx, s, bytes.NewReader(tar.Bytes()), transfer.ImportOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			failed := 0
			for n, fired := 0, true; fired; n++ {
				disk := vfs.NewMem()
				faulty := vfs.FailNth(disk, n)
				meta := metadata.New(kvmem.New(), t.TempDir())
				var actErr error
				if blobs, err := dir.Open(faulty); err != nil {
					actErr = err
				} else {
					actErr = act(t.Context(), transfer.Store{Content: blobs, Meta: meta, Namespace: "default"})
				}
				fired = faulty.Fired
				if actErr != nil {
					failed++
				}
				after := open(t, disk.AfterCrash(), meta)
				when := fmt.Sprintf("call %d failed (%v), then the power", n, actErr)
				if complete := mustBeWhole(t, after, when); !complete && actErr == nil {
					t.Fatalf("%s: acknowledged, and not complete", when)
				}
				if err := act(t.Context(), after); err != nil {
					t.Fatalf("%s: the next try: %v", when, err)
				}
				if !mustBeWhole(t, after, when) {
					t.Fatalf("%s: the next try did not complete it", when)
				}
			}
			if failed == 0 {
				t.Error("no call failed")
			}
		})
	}
}

func open(t *testing.T, disk vfs.FS, meta *metadata.Store) transfer.Store {
	t.Helper()
	blobs, err := dir.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	return transfer.Store{Content: blobs, Meta: meta, Namespace: "default"}
}

func pull(t *testing.T, s transfer.Store, img *imagetest.Image) *transfer.PullResult {
	t.Helper()
	res, err := transfer.Pull(t.Context(), s, &fakeRegistry{img: img}, parse(t, "example.com/app:1"), transfer.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestImportCountsOnTheStore imports an archive that leaves out a layer which the store has, but
// stored without syncing: after a power cut the image is whole all the same.
func TestImportCountsOnTheStore(t *testing.T) {
	img := build(t, 3_000, 200_000)
	disk := vfs.NewMem()
	lax := open(t, vfs.NoSync(disk), metadata.New(kvmem.New(), t.TempDir()))
	pull(t, lax, img)
	var whole bytes.Buffer
	if err := transfer.Export(t.Context(), lax, &whole, []string{"example.com/app:1"}, transfer.ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	layer := img.Manifest().Layers[1].Digest
	var partial bytes.Buffer
	in, out := tar.NewReader(&whole), tar.NewWriter(&partial)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, layer.Encoded()) {
			continue
		}
		if err := out.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, in); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	meta := metadata.New(kvmem.New(), t.TempDir())
	if _, err := transfer.Import(t.Context(), open(t, disk, meta), &partial, transfer.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(20) {
		if !mustBeWhole(t, open(t, disk.AfterCrashSeed(seed), meta), "after a power cut") {
			t.Fatal("not complete")
		}
	}
}

// TestSyncedPullOfAnUnsyncedImage pulls an image without syncing and then again with it: the second
// pull has nothing to fetch, and a power cut takes nothing of what it acknowledged.
func TestSyncedPullOfAnUnsyncedImage(t *testing.T) {
	img := build(t, 3_000, 200_000)
	disk, meta := vfs.NewMem(), metadata.New(kvmem.New(), t.TempDir())
	pull(t, open(t, vfs.NoSync(disk), meta), img)
	if res := pull(t, open(t, disk, meta), img); res.Fetched.Blobs != 0 {
		t.Errorf("the second pull fetched %d blobs, want none", res.Fetched.Blobs)
	}
	for seed := range uint64(20) {
		if !mustBeWhole(t, open(t, disk.AfterCrashSeed(seed), meta), "after a power cut") {
			t.Fatal("not complete")
		}
	}
}
