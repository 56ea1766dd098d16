// Package roundtrip takes odd layers through the built command and compares, path by path, what
// comes out: what each snapshotter mounts, what is unpacked into plain files, what the differences
// of snapshots make when they are applied again, and what GNU tar and umoci make of the same
// layers. The programs are Debian's; `make deps` installs them, and a missing one fails the test.
package roundtrip

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/layer/layertest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

var snapshotters = []string{"overlay", "erofs", "native"}

// A bench is a registry, a store for each snapshotter, and the built command.
type bench struct {
	dir  string
	bin  string
	host string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir()}
	b.bin = filepath.Join(b.dir, "stowage")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", b.bin, "github.com/stowage/stowage/cmd/stowage").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	reg, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Errorf("stop the registry: %v", err)
		}
	})
	b.host = reg.Host
	return b
}

// run runs a program, which must succeed, and gives its standard output. The store is that of the
// snapshotter.
func (b *bench) run(t *testing.T, snapshotter, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "STOWAGE_CONFIG=/dev/null", "TMPDIR="+b.dir,
		"STOWAGE_ROOT="+filepath.Join(b.dir, "store-"+snapshotter), "STOWAGE_SNAPSHOTTER="+snapshotter)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes()
}

func (b *bench) stowage(t *testing.T, snapshotter string, args ...string) []byte {
	t.Helper()
	return b.run(t, snapshotter, b.bin, append([]string{"--progress", "none", "--sync", "none"}, args...)...)
}

// push makes an image of a case and puts it into the registry.
func (b *bench) push(t *testing.T, c layertest.Case, how imagetest.Compression) (ref string, img *imagetest.Image) {
	t.Helper()
	img = build(t, c, how)
	repo := "corpus/" + c.Name
	if err := imagetest.Push(t.Context(), b.host, repo, "1", img); err != nil {
		t.Fatal(err)
	}
	return b.host + "/" + repo + ":1", img
}

func build(t *testing.T, c layertest.Case, how imagetest.Compression) *imagetest.Image {
	t.Helper()
	var tars []imagetest.Tar
	for _, layer := range c.Layers {
		tars = append(tars, func(w io.Writer) error {
			_, err := w.Write(layer)
			return err
		})
	}
	img, err := imagetest.Spec{Layers: imagetest.Layers(how, tars...)}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// machine is a case of files that are installed here.
func machine(t *testing.T) layertest.Case {
	t.Helper()
	tars, err := imagetest.Machine(16<<20, 4<<20, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	c := layertest.Case{Name: "machine"}
	for _, tar := range tars {
		var layer bytes.Buffer
		if err := tar(&layer); err != nil {
			t.Fatal(err)
		}
		c.Layers = append(c.Layers, layer.Bytes())
	}
	return c
}

// TestCorpus takes each case everywhere, several at once, in one store for each snapshotter: the
// layers that they share are unpacked once.
func TestCorpus(t *testing.T) {
	b := newBench(t)
	compressions := []imagetest.Compression{imagetest.Gzip, imagetest.Zstd, imagetest.Plain}
	for i, c := range append(layertest.Corpus(), machine(t)) {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			ref, img := b.push(t, c, compressions[i%len(compressions)])
			want := reference(t, c)
			var diffs [][]byte
			for _, snapshotter := range snapshotters {
				t.Run(snapshotter, func(t *testing.T) {
					b.stowage(t, snapshotter, "pull", ref)
					alike(t, want, b.mounted(t, snapshotter, ref))
					got := b.differences(t, snapshotter, img)
					if diffs == nil {
						diffs = got
					}
					for i, want := range diffs {
						if !bytes.Equal(want, got[i]) {
							t.Errorf("difference %d (-%s +%s):\n%s", i, snapshotters[0], snapshotter, cmp.Diff(headers(t, want), headers(t, got[i])))
						}
					}
				})
			}
			t.Run("unpacked", func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "tree")
				b.stowage(t, snapshotters[0], "image", "unpack", ref, dir)
				alike(t, want, describe(t, dir))
			})
			t.Run("differences", func(t *testing.T) {
				if diffs == nil {
					t.Fatal("there are none")
				}
				again := reference(t, layertest.Case{Name: c.Name, Layers: diffs})
				alike(t, without(pages, want), without(pages, again))
			})
			t.Run("umoci", func(t *testing.T) {
				got, err := b.umoci(t, c)
				want := without(folderTime, without(pages, want))
				got = without(folderTime, without(pages, got))
				switch {
				case c.UmociDiffers != "" && err == nil && slices.Equal(want, got):
					t.Errorf("it makes the same tree, though %s", c.UmociDiffers)
				case c.UmociDiffers != "":
				case err != nil:
					t.Error(err)
				default:
					alike(t, want, got)
				}
			})
		})
	}
}

// reference is the tree that a case becomes by GNU tar.
func reference(t *testing.T, c layertest.Case) []string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	layertest.Reference(t, c, dir)
	return describe(t, dir)
}

func describe(t *testing.T, dir string) []string {
	t.Helper()
	lines, err := layertest.Describe(dir)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func alike(t *testing.T, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the tree differs (-want +got):\n%s", diff)
	}
}

// What is not compared everywhere: a layer does not tell of holes that are smaller than those that
// runs of zeros become, and umoci knows none at all; and where folders have no entry, umoci leaves
// them the time at which something was last put into them.
var (
	pages      = regexp.MustCompile(`( pages=)\[.*\]`)
	folderTime = regexp.MustCompile(`^(".*" dir [0-7]+ \d+:\d+) \S+`)
)

// without leaves something out of each line.
func without(what *regexp.Regexp, lines []string) []string {
	var left []string
	for _, line := range lines {
		left = append(left, what.ReplaceAllString(line, "$1"))
	}
	return left
}

// mounted describes an image where it is mounted.
func (b *bench) mounted(t *testing.T, snapshotter, ref string) []string {
	t.Helper()
	at := filepath.Join(t.TempDir(), "mount")
	b.stowage(t, snapshotter, "image", "mount", ref, at)
	lines, err := layertest.Describe(at)
	b.stowage(t, snapshotter, "image", "unmount", at)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// few is how many layers are asked for one by one: each is a run of the command.
const few = 8

// differences are the layers that the snapshots of an image add, bottom first. Those beyond the
// first few are one.
func (b *bench) differences(t *testing.T, snapshotter string, img *imagetest.Image) [][]byte {
	t.Helper()
	config, _ := img.Blob(img.Manifest().Config.Digest)
	body, err := config.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var parsed v1.Image
	if err := json.Unmarshal(body, &parsed); err != nil {
		t.Fatal(err)
	}
	chain := chainIDs(parsed.RootFS.DiffIDs)
	var diffs [][]byte
	for _, key := range chain[:min(few, len(chain))] {
		diffs = append(diffs, b.stowage(t, snapshotter, "snapshot", "diff", key))
	}
	if len(chain) > few {
		diffs = append(diffs, b.stowage(t, snapshotter, "snapshot", "diff", chain[few-1], chain[len(chain)-1]))
	}
	return diffs
}

// headers are the entries of a layer.
func headers(t *testing.T, layer []byte) []tar.Header {
	t.Helper()
	var all []tar.Header
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, *h)
	}
}

// chainIDs are those of layers, bottom first.
func chainIDs(diffIDs []digest.Digest) []string {
	var all []string
	for i, diffID := range diffIDs {
		if i > 0 {
			diffID = digest.FromString(all[i-1] + " " + diffID.String())
		}
		all = append(all, diffID.String())
	}
	return all
}

// umoci describes what umoci makes of a case.
func (b *bench) umoci(t *testing.T, c layertest.Case) ([]string, error) {
	t.Helper()
	layout, dir := filepath.Join(t.TempDir(), "layout"), filepath.Join(t.TempDir(), "tree")
	writeLayout(t, layout, build(t, c, imagetest.Gzip))
	if out, err := exec.CommandContext(t.Context(), "umoci", "raw", "unpack", "--image", layout+":1", dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("umoci: %w: %s", err, out)
	}
	return describe(t, dir), nil
}

// writeLayout writes an image as a folder in the OCI layout, under the name 1.
func writeLayout(t *testing.T, dir string, img *imagetest.Image) {
	t.Helper()
	write := func(name string, content []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, blob := range img.Blobs {
		content, err := blob.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		write(filepath.Join("blobs", blob.Digest.Algorithm().String(), blob.Digest.Encoded()), content)
	}
	root := img.Root
	root.Annotations = map[string]string{v1.AnnotationRefName: "1"}
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []image.Descriptor{root},
	})
	if err != nil {
		t.Fatal(err)
	}
	write("index.json", index)
	write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
}
