package unpack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/layertest"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/unpack"
)

var drivers = []string{"overlay", "erofs", "native"}

// plain is an image of three layers of which each changes what is below it.
func plain() [][]byte {
	return [][]byte{
		layerOf(folder("etc/", 0o750), file("etc/a", "a"), file("etc/b", "b"), folder("opt/", 0o711), file("opt/x", "x")),
		layerOf(file("etc/.wh.a", ""), file("etc/c", "c"), file("opt/.wh..wh..opq", ""), folder("new/", 0o700)),
		layerOf(file("new/file", "new"), file("etc/a", "again"), link(tar.TypeSymlink, "link", "etc/a")),
	}
}

// send writes a blob to a stream in pieces.
func send(t testing.TB, s *unpack.Stream, b []byte, piece int) error {
	t.Helper()
	for p := range slices.Chunk(b, piece) {
		buffer := bytes.Clone(p)
		if n, err := s.Write(buffer); err != nil || n != len(p) {
			return errors.Join(err, s.Abort())
		}
		clear(buffer) // which is ours again
	}
	return s.Close()
}

// What is unpacked from the store is what the layers make of a folder.
func TestAdd(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, driver)
			layers := plain()
			img := w.imageOf(layers...)
			if done, err := w.Done(t.Context(), img); done || err != nil {
				t.Errorf("before: done %v, error %v", done, err)
			}
			w.unpack(img)
			w.looks(img, layers...)
			w.nothing()
			if done, err := w.Done(t.Context(), img); !done || err != nil {
				t.Errorf("after: done %v, error %v", done, err)
			}
			rows := w.chain(img)
			for i, row := range rows {
				if row.DiffID != img.DiffIDs[i] || row.Size == 0 || row.Inodes == 0 {
					t.Errorf("row %d says %+v", i, row)
				}
				if want := i == len(rows)-1; slices.Contains(row.Manifests, img.Manifest) != want {
					t.Errorf("row %d is the whole stack of %v", i, row.Manifests)
				}
			}
			// Again, there is nothing to do; and another image on the same layers costs a row.
			before, _ := w.left()
			w.unpack(img)
			other := w.imageOf(layers[:2]...)
			w.unpack(other)
			after, _ := w.left()
			if !slices.Equal(before, after) {
				t.Errorf("folders before %q, after %q", before, after)
			}
			w.looks(other, layers[:2]...)
		})
	}
}

// What is unpacked as it arrives is the same, in the same folders, whatever the pieces and the
// order of the layers, and whether or not it is known which they are.
func TestStream(t *testing.T) {
	for _, driver := range drivers {
		for _, known := range []bool{true, false} {
			for _, piece := range []int{1, 1000, 1 << 20} {
				w := newWorld(t, driver)
				layers := plain()
				img := w.imageOf(layers...)
				r := w.Begin()
				var streams []*unpack.Stream
				for i, d := range slices.Backward(img.Layers) {
					diffID := img.DiffIDs[i]
					if !known {
						diffID = ""
					}
					s, err := r.Stream(t.Context(), d.Digest, diffID)
					must(t, err)
					if (s == nil) != (driver == "native") {
						t.Fatalf("%s: stream %v", driver, s)
					}
					if s == nil {
						continue
					}
					streams = append(streams, s)
					must(t, send(t, s, gzipped(layers[i]), piece))
				}
				must(t, r.Add(t.Context(), img))
				folders, _ := w.left()
				if len(folders) != len(layers) {
					t.Errorf("%s: %d folders, want %d", driver, len(folders), len(layers))
				}
				w.keep(r)
				w.looks(img, layers...)
				w.nothing()

				// There is nothing left to stream.
				r = w.Begin()
				s, err := r.Stream(t.Context(), img.Layers[0].Digest, img.DiffIDs[0])
				if s != nil || err != nil {
					t.Errorf("%s: a layer that is there is streamed: %v, error %v", driver, s, err)
				}
				must(t, r.Close(t.Context()))
			}
		}
	}
}

// One layer may come in two blobs, and in one run.
func TestStreamTwice(t *testing.T) {
	w := newWorld(t, "overlay")
	l := plain()[0]
	img := w.imageOf(l, l)
	r := w.Begin()
	var all []*unpack.Stream
	for _, name := range []string{"one", "another"} {
		s, err := r.Stream(t.Context(), digest.FromString(name), "")
		must(t, err)
		all = append(all, s)
	}
	// Whoever knows the layer leaves it to the one who has it.
	known, err := r.Stream(t.Context(), img.Layers[0].Digest, img.DiffIDs[0])
	must(t, err)
	again, err := r.Stream(t.Context(), img.Layers[0].Digest, img.DiffIDs[0])
	if again != nil || err != nil {
		t.Errorf("a layer that is being unpacked is streamed: %v, error %v", again, err)
	}
	must(t, send(t, all[0], l, 100))
	must(t, send(t, all[1], gzipped(l), 100))
	must(t, send(t, known, gzipped(l), 100))
	must(t, r.Add(t.Context(), img))
	w.keep(r)
	if folders, _ := w.left(); len(folders) != 1 {
		t.Errorf("one layer is in the folders %q", folders)
	}
	w.looks(img, l, l)
	w.nothing()
}

// Streams of one run go on side by side, also such as turn out to be one layer, and such as are
// given up. The run has each layer once.
func TestStreamsSideBySide(t *testing.T) {
	for _, driver := range drivers[:2] {
		w := newWorld(t, driver)
		var layers [][]byte
		for i := range 8 {
			layers = append(layers, layerOf(file(fmt.Sprint(i), strings.Repeat("content", 1000))))
		}
		img := w.imageOf(layers...)
		r := w.Begin()
		var all sync.WaitGroup
		for i, l := range layers {
			for n, diffID := range []image.Digest{img.DiffIDs[i], "", "", ""} {
				all.Go(func() {
					s, err := r.Stream(t.Context(), digest.FromString(fmt.Sprint(i, n)), diffID)
					if err == nil && s != nil { // nobody was quicker
						if n == 3 {
							_, err = s.Write(l[:1000])
							err = errors.Join(err, s.Abort())
						} else {
							err = send(t, s, gzipped(l), 100)
						}
					}
					if err != nil {
						t.Errorf("layer %d: %v", i, err)
					}
				})
			}
		}
		all.Wait()
		if folders, _ := w.left(); len(folders) != len(layers) {
			t.Errorf("%s: %d folders, want %d", driver, len(folders), len(layers))
		}
		must(t, r.Add(t.Context(), img))
		w.keep(r)
		w.looks(img, layers...)
		w.nothing()
	}
}

// A blob that is no layer, or not this one, leaves nothing: no folder, no lock, no row.
func TestBadLayers(t *testing.T) {
	good := layerOf(file("a", "a"), file("big", string(bytes.Repeat([]byte("0123456789"), 200_000))))
	packed := gzipped(good)
	flip := bytes.Clone(packed)
	flip[len(flip)/2] ^= 0x10
	sum := bytes.Clone(packed)
	sum[len(sum)-6] ^= 1
	for _, tt := range []struct {
		name   string
		blob   []byte
		diffID image.Digest
		kind   func(error) bool
	}{
		{"wrong diffID", packed, digest.FromString("another"), errdefs.IsDataLoss},
		{"cut short", packed[:len(packed)/2], digest.FromBytes(good), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"damaged", flip, digest.FromBytes(good), errdefs.IsDataLoss},
		{"wrong checksum", sum, digest.FromBytes(good), errdefs.IsDataLoss},
		{"garbage behind", append(bytes.Clone(packed), "garbage that is no gzip member"...), digest.FromBytes(good), errdefs.IsDataLoss},
		{"no tar", gzipped(bytes.Repeat([]byte("no tar "), 1000)), digest.FromBytes(bytes.Repeat([]byte("no tar "), 1000)), errdefs.IsInvalidArgument},
		{"another compression", []byte("BZh91AY&SY and so on"), digest.FromString("x"), errdefs.IsNotImplemented},
		{"tar cut short", gzipped(good[:5000]), digest.FromBytes(good[:5000]), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
	} {
		for _, driver := range drivers {
			t.Run(tt.name+" "+driver, func(t *testing.T) {
				w := newWorld(t, driver)
				img := unpack.Image{Layers: []image.Descriptor{w.store(tt.blob)}, DiffIDs: []image.Digest{tt.diffID}}
				img.Manifest = manifestOf(img)
				check := func(what string, err error) {
					t.Helper()
					var located *unpack.LayerError
					if !tt.kind(err) || !errors.As(err, &located) || located.Layer != img.Layers[0].Digest {
						t.Errorf("%s: %v", what, err)
					}
				}
				r := w.Begin()
				for _, piece := range []int{97, 1 << 20} {
					s, err := r.Stream(t.Context(), img.Layers[0].Digest, tt.diffID)
					must(t, err)
					if s != nil {
						check("stream", send(t, s, tt.blob, piece))
					}
				}
				check("add", r.Add(t.Context(), img))
				w.keep(r)
				w.empty()
			})
		}
	}
}

// A stream that is given up at whatever point leaves nothing, and the layer is there for others.
func TestAbort(t *testing.T) {
	for _, driver := range drivers[:2] {
		w := newWorld(t, driver)
		b := layerOf(file("a", "a"), file("big", string(bytes.Repeat([]byte("0123456789"), 100_000))))
		img := w.imageOf(b)
		r := w.Begin()
		for _, n := range []int{0, 1, 5, 600, 2000, len(b)} {
			s, err := r.Stream(t.Context(), img.Layers[0].Digest, img.DiffIDs[0])
			must(t, err)
			if n > 0 {
				if _, err := s.Write(b[:n]); err != nil {
					t.Errorf("write %d bytes: %v", n, err)
				}
			}
			within(t, 10*time.Second, "abort", func() { must(t, s.Abort()) })
			w.empty()
		}
		must(t, r.Add(t.Context(), img))
		w.keep(r)
		w.looks(img, b)
	}
}

// A run that is cancelled says so, and leaves nothing.
func TestCancel(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			w := newWorld(t, driver)
			var b bytes.Buffer
			out := tar.NewWriter(&b)
			for range 20 {
				must(t, out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: digest.FromBytes(b.Bytes()).Encoded(), Size: 1 << 20}))
				_, err := out.Write(bytes.Repeat([]byte{1}, 1<<20))
				must(t, err)
			}
			must(t, out.Close())
			img := w.imageOf(b.Bytes())
			for _, after := range []int64{0, 1 << 20, 5 << 20} {
				ctx, cancel := context.WithCancel(t.Context())
				if after == 0 {
					cancel()
				}
				u := *w.Unpacker
				u.Content = &cancelling{Store: w.Content, cancel: cancel, after: after / 1000} // it compresses well
				r := u.Begin()
				err := r.Add(ctx, img)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled after %d bytes: %v", after, err)
				}
				must(t, r.Close(ctx))
				w.empty()
				cancel()

				ctx, cancel = context.WithCancel(t.Context())
				s, err := r.Stream(ctx, img.Layers[0].Digest, "")
				must(t, err)
				if s == nil {
					cancel()
					continue
				}
				_, err = s.Write(b.Bytes()[:after])
				must(t, err)
				cancel()
				for err == nil {
					_, err = s.Write(make([]byte, 1<<16))
				}
				if !errors.Is(err, context.Canceled) {
					t.Errorf("stream cancelled after %d bytes: %v", after, err)
				}
				must(t, s.Abort())
				must(t, r.Close(ctx))
				w.empty()
			}
		})
	}
}

// A layer over which the policy decides is refused, or its losses are told.
func TestLosses(t *testing.T) {
	odd := file("odd", "odd")
	odd.PAXRecords = map[string]string{"SCHILY.xattr.nosuch.attribute": "1"}
	odd.Format = tar.FormatPAX
	b := layerOf(odd, file("other", "other"))
	for _, driver := range []string{"overlay", "native"} {
		w := newWorld(t, driver)
		img := w.imageOf(b)
		r := w.Begin()
		err := r.Add(t.Context(), img)
		var loss *layer.LossError
		if !errors.As(err, &loss) || !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: losses that are refused: %v", driver, err)
		}
		w.keep(r)
		w.empty()

		var told []progress.Event
		w.ReportLosses = true
		w.Progress = progress.Serial(func(e progress.Event) {
			if e.Kind == progress.Warning {
				told = append(told, e)
			}
		})
		w.unpack(img)
		rows := w.chain(img)
		if len(told) != 1 || len(rows[0].Losses) != 1 || rows[0].Losses[0].Path != "odd" {
			t.Errorf("%s: told %+v, kept %+v", driver, told, rows[0].Losses)
		}
		losses, err := w.Folder(t.Context(), img, empty(t))
		if err != nil || len(losses) != 1 {
			t.Errorf("to a folder: losses %v, error %v", losses, err)
		}
	}
}

func empty(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	must(t, errors.Join(os.Mkdir(dir, 0o755), os.Chtimes(dir, time.Unix(0, 0), time.Unix(0, 0))))
	return dir
}

// An image without layers is unpacked as soon as it is asked for.
func TestNoLayers(t *testing.T) {
	for _, driver := range drivers {
		w := newWorld(t, driver)
		img := w.imageOf()
		w.unpack(img)
		if done, err := w.Done(t.Context(), img); !done || err != nil {
			t.Errorf("done %v, error %v", done, err)
		}
		w.looks(img)
		w.empty()
	}
}

// An empty blob is an empty layer, and a layer may stand in an image twice.
func TestSameLayerTwice(t *testing.T) {
	for _, driver := range drivers {
		w := newWorld(t, driver)
		layers := plain()
		a, b := layers[0], layers[1]
		img := w.imageOf(a, b, a, a, nil, b)
		w.unpack(img)
		w.looks(img, a, b, a, a, nil, b)
		w.nothing()
		folders := w.folders(img)
		if driver != "native" && (folders[0] != folders[2] || folders[2] != folders[3]) {
			t.Errorf("%s: the layers have the folders %q", driver, folders)
		}
	}
}

// Images share layers, in the rows of one run and of several; and an image that fails takes
// nothing with it.
func TestShared(t *testing.T) {
	for _, driver := range drivers {
		for _, runs := range []int{1, 2} {
			w := newWorld(t, driver)
			layers := plain()
			one, two := w.imageOf(layers[:2]...), w.imageOf(layers[0], layers[2])
			bad := w.imageOf(layers[0], layers[1], layerOf(file("../x", "")))
			r := w.Begin()
			must(t, r.Add(t.Context(), one))
			if runs == 2 {
				w.keep(r)
				r = w.Begin()
			}
			if err := r.Add(t.Context(), bad); !errdefs.IsInvalidArgument(err) {
				t.Errorf("a bad image: %v", err)
			}
			must(t, r.Add(t.Context(), two))
			w.keep(r)
			w.looks(one, layers[:2]...)
			w.looks(two, layers[0], layers[2])
			if a, b := w.folders(one), w.folders(two); a[0] != b[0] {
				t.Errorf("%s: the base is in %s and %s", driver, a[0], b[0])
			}
			if done, err := w.Done(t.Context(), bad); done || err != nil {
				t.Errorf("a bad image: done %v, error %v", done, err)
			}
			w.nothing()
			rows, err := w.Snapshots.Walk(t.Context())
			must(t, err)
			if len(rows) != 3 {
				t.Errorf("%s: %d rows, want 3", driver, len(rows))
			}
		}
	}
}

var every = flag.Bool("every", false, "unpack on every base first, and all in one run and in many; takes half a minute")

// What a layer needs from below decides whether its folder can be shared. Whatever was unpacked
// before it, and on what, an image is what its layers say.
func TestFit(t *testing.T) {
	small := layerOf(file("z", "z"))
	odd := layerOf(folder("a/", 0o2700), folder("a/b/", 0o1777), file("a/b/low", "low"), folder("c/", 0o500), file("f", "f"))
	linked := layerOf(folder("real/", 0o700), folder("real/b/", 0o755), link(tar.TypeSymlink, "a", "real"), link(tar.TypeSymlink, "c", "/real/b"))
	bases := [][][]byte{nil, {small}, {odd}, {linked}, {odd, layerOf(file(".wh.a", ""))}, {layerOf(file("a", "a file"), file("c", "another"))}}
	for name, top := range map[string][]byte{
		"implied":            layerOf(file("a/b/new", "new")),
		"implied twice":      layerOf(file("a/new", "new"), file("c/new", "new")),
		"whiteout":           layerOf(file("a/b/.wh.low", ""), file("x", "x")),
		"whiteouts alone":    layerOf(file("a/b/.wh.low", ""), file("a/.wh.b", ""), file("c/d/e/.wh.x", "")),
		"opaque":             layerOf(file("a/b/.wh..wh..opq", "")),
		"opaque and more":    layerOf(file("a/.wh..wh..opq", ""), file("a/b/new", "new")),
		"opaque above":       layerOf(file(".wh..wh..opq", ""), file("a/b/new", "new")),
		"replaced":           layerOf(file(".wh.a", ""), file("a/b/new", "new")),
		"changed and misfit": layerOf(file("c/new", "new"), file("a/b/new", "new")),
		"own folders":        layerOf(folder("a/", 0o711), folder("a/b/", 0o712), file("a/b/new", "new")),
		"entries late":       layerOf(file("a/b/new", "new"), folder("a/b/", 0o712), folder("a/", 0o711)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Each base is the first once, and so the one that the layer may be changed for.
			for i := range bases {
				for _, runs := range []int{1, len(bases)} {
					if !*every && (i+runs)%len(bases) > 1 {
						continue
					}
					w := newWorld(t, "overlay")
					var images []unpack.Image
					var stacks [][][]byte
					r := w.Begin()
					for _, base := range slices.Concat(bases[i:], bases[:i]) {
						layers := append(slices.Clone(base), top)
						img := w.imageOf(layers...)
						images, stacks = append(images, img), append(stacks, layers)
						must(t, r.Add(t.Context(), img))
						if runs > 1 {
							w.keep(r)
						}
					}
					w.keep(r)
					for n, img := range images {
						if diff := cmp.Diff(wholeOf(t, stacks[n]...), w.mounted(img)); diff != "" {
							t.Errorf("base %d first, in %d runs: image %d differs (-want +got):\n%s", i, runs, n, diff)
						}
					}
					w.nothing()
				}
			}
		})
	}
}

// A hard link to a file below cannot be made without it; the layer is unpacked on each chain.
func TestLinksBelow(t *testing.T) {
	w := newWorld(t, "overlay")
	low, other := layerOf(file("f", "one")), layerOf(file("f", "other"))
	top := layerOf(link(tar.TypeLink, "g", "f"), file("x", "x"))
	one, two := w.imageOf(low, top), w.imageOf(other, top)
	r := w.Begin()
	must(t, r.Add(t.Context(), one))
	must(t, r.Add(t.Context(), two))
	w.keep(r)
	w.looks(one, low, top)
	w.looks(two, other, top)
	if a, b := w.folders(one), w.folders(two); a[1] == b[1] {
		t.Errorf("a layer that links to what is below is shared: %s", a[1])
	}
	w.nothing()
	alone := w.imageOf(top)
	r = w.Begin()
	if err := r.Add(t.Context(), alone); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a link to nothing: %v", err)
	}
	w.keep(r)
	w.nothing()
}

// Every stack of the corpus becomes what GNU tar makes of it, however its layers came to be
// unpacked: as they arrive, the topmost first; and after an image of its upper layers alone.
func TestCorpus(t *testing.T) {
	for _, c := range layertest.Corpus() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "reference")
			layertest.Reference(t, c, dir)
			want, err := layertest.Describe(dir)
			must(t, err)
			for _, streamed := range []bool{true, false} {
				w := newWorld(t, "overlay")
				w.ReportLosses = true
				img := w.imageOf(c.Layers...)
				r := w.Begin()
				if streamed {
					for i, d := range slices.Backward(img.Layers) {
						s, err := r.Stream(t.Context(), d.Digest, img.DiffIDs[i])
						must(t, err)
						if s != nil { // not twice
							must(t, send(t, s, gzipped(c.Layers[i]), 1<<16))
						}
					}
				} else if upper := w.imageOf(c.Layers[1:]...); r.Add(t.Context(), upper) == nil {
					w.keep(r)
				}
				must(t, r.Add(t.Context(), img))
				w.keep(r)
				if diff := cmp.Diff(want, w.mounted(img)); diff != "" {
					t.Errorf("streamed %v: differs from the reference (-want +got):\n%s", streamed, diff)
				}
				w.nothing()
			}
		})
	}
}

// A folder that people removed is made again, and every row that named it is mended.
func TestMend(t *testing.T) {
	for _, driver := range drivers {
		w := newWorld(t, driver)
		layers := plain()
		img := w.imageOf(layers...)
		w.unpack(img)
		for i := range layers {
			must(t, layer.RemoveAll(w.Snapshots.Path(w.folders(img)[i])))
			if done, err := w.Done(t.Context(), img); done || err != nil {
				t.Errorf("%s: without folder %d: done %v, error %v", driver, i, done, err)
			}
			w.unpack(img)
			w.looks(img, layers...)
			_, err := w.Snapshots.Sweep(t.Context())
			must(t, err)
			w.looks(img, layers...)
			w.nothing()
		}
	}
}

// A snapshot that somebody made by hand under the name of a stack is not taken for a layer of it.
func TestNamesByHand(t *testing.T) {
	w := newWorld(t, "overlay")
	layers := plain()
	img := w.imageOf(layers...)
	chain := image.ChainIDs(img.DiffIDs)
	_, err := w.Snapshots.Prepare(t.Context(), "mine", "", nil)
	must(t, err)
	must(t, w.Snapshots.Commit(t.Context(), chain[1].String(), "mine", nil))
	rows, err := w.Snapshots.Chain(t.Context(), chain)
	if len(rows) != 0 || err != nil {
		t.Errorf("got %v, error %v", rows, err)
	}
}

// Folder applies the layers to a folder of the caller's, and checks them all the same.
func TestFolder(t *testing.T) {
	w := newWorld(t, "overlay")
	layers := plain()
	img := w.imageOf(layers...)
	dir := empty(t)
	losses, err := w.Folder(t.Context(), img, dir)
	if len(losses) > 0 || err != nil {
		t.Fatalf("losses %v, error %v", losses, err)
	}
	lines, err := layertest.Describe(dir)
	must(t, err)
	if diff := cmp.Diff(wholeOf(t, layers...), lines); diff != "" {
		t.Errorf("differs (-want +got):\n%s", diff)
	}
	img.DiffIDs[1] = digest.FromString("another")
	if _, err := w.Folder(t.Context(), img, empty(t)); !errdefs.IsDataLoss(err) {
		t.Errorf("a wrong diffID: %v", err)
	}
}

func TestImageOf(t *testing.T) {
	doc := &image.Document{Layers: []image.Descriptor{{}, {}}}
	if _, err := unpack.ImageOf("", doc, &image.Config{DiffIDs: []image.Digest{"a"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("two layers and one diffID: %v", err)
	}
}
