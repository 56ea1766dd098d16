package stowage_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/stowage/stowage"

// allowed says which groups each group may import. A group is the first folder below internal
// with all beneath it, the root package ("stowage"), the command ("cmd"), or a program of the
// project's own. A package in no row fails the test: a new one starts with a new row.
var allowed = map[string]string{
	// Ground: nothing of images.
	"vfs":      "",
	"flock":    "",
	"par":      "",
	"progress": "",
	"rate":     "",
	"mark":     "flock vfs",
	"mount":    "",
	"inflate":  "",

	// Model: bytes in, values out.
	"image":  "",
	"ref":    "image",
	"filter": "",

	// Storage: bytes and rows.
	"content": "vfs par",
	"kv":      "flock",
	"layer":   "inflate image",

	// Keepers and talkers: the state we own, the places images come from and go to.
	"metadata":   "flock ref image content kv layer",
	"snapshot":   "flock kv layer metadata mount",
	"registry":   "ref image par progress rate",
	"archive":    "ref image content par progress",
	"containerd": "image content metadata mount par snapshot",

	// Work: one verb each.
	"unpack":   "par progress image content layer metadata snapshot",
	"transfer": "flock par progress ref image content metadata registry archive unpack",
	"gc":       "image content metadata snapshot",
	"doctor":   "par progress rate mount ref image content layer metadata snapshot",

	// Faces, door and command. Only commands draw and read flags.
	"config":  "image registry",
	"server":  "stowage flock progress ref image filter content layer metadata snapshot transfer unpack mount registry gc",
	"stowage": "vfs flock mark par progress mount ref image content kv layer metadata snapshot registry archive containerd unpack transfer gc doctor",
	"cmd":     "stowage config progress server",

	// What stands beside the product.
	"imagetest": "image registry",
	"demo":      "image imagetest registry",
	"bench":     "image imagetest registry",
	"test":      "containerd image imagetest layer registry",
}

// forTests are folders whose packages tests of every group may import besides: storage to stand
// on, with its suites, and what stands in for a registry and its images.
var forTests = []string{
	"internal/containerd/containerdtest",
	"internal/content",
	"internal/imagetest",
	"internal/kv",
	"internal/mount",
	"internal/registry/registrytest",
	"internal/snapshot",
	"internal/vfs",
}

// homes says where each large dependency lives; the folders stand for all beneath them. Tests
// may import what they like as an outside measure, except the dependencies that are for tests.
var homes = map[string]string{
	"go.etcd.io/bbolt":                         "internal/kv/bolt",
	"github.com/spf13/cobra":                   "cmd/stowage",
	"github.com/vbauerster/mpb":                "cmd/stowage",
	"github.com/pelletier/go-toml":             "internal/config internal/registry/hosts",
	"github.com/erofs/go-erofs":                "", // reads in tests what internal/layer/erofs writes
	"oras.land/oras-go":                        "internal/registry",
	"google.golang.org/grpc":                   "internal/server internal/containerd internal/snapshot/proxy cmd/stowage bench",
	"github.com/prometheus/client_golang":      "internal/server/metrics",
	"go.opentelemetry.io/otel":                 "internal/server",
	"k8s.io/cri-api":                           "internal/server/cri",
	"github.com/coreos/go-systemd":             "cmd/stowage internal/server",
	"github.com/distribution/distribution":     "internal/registry/registrytest",
	"github.com/sirupsen/logrus":               "internal/registry/registrytest",
	"github.com/containerd/containerd/v2":      "", // its job is ours
	"github.com/containerd/containerd/api":     "internal/server internal/containerd internal/snapshot/proxy bench",
	"github.com/containerd/stargz-snapshotter": "",
	"github.com/containers":                    "",
	"github.com/google/go-containerregistry":   "",
	"github.com/moby/buildkit":                 "",
	"github.com/rogpeppe/go-internal":          "",
	"pgregory.net/rapid":                       "internal/content/contenttest internal/kv/kvtest",
	"testing":                                  "internal/content/contenttest internal/kv/kvtest internal/layer/layertest internal/registry/registrytest internal/snapshot/snapshottest internal/vfs/vfstest",
}

// A source is one file and what it imports.
type source struct {
	file    string // slash-separated, from the module's root
	imports []string
}

func (s source) folder() string { return path.Dir(s.file) }
func (s source) test() bool     { return strings.HasSuffix(s.file, "_test.go") }

func TestImports(t *testing.T) {
	used := map[string]bool{}
	for _, src := range sources(t) {
		from := group(src.folder())
		used[from] = true
		row, ok := allowed[from]
		if !ok {
			t.Errorf("%s: package %s has no row in the import table", src.file, from)
			continue
		}
		for _, imported := range src.imports {
			folder, ours := strings.CutPrefix(imported, module)
			folder = strings.Trim(folder, "/")
			if !ours {
				continue
			}
			to := group(folder)
			switch {
			case to == from, slices.Contains(strings.Fields(row), to):
			case src.test() && within(folder, forTests):
			default:
				t.Errorf("%s imports %s: %s may import only [%s]", src.file, imported, from, row)
			}
		}
	}
	for name := range allowed {
		if !used[name] {
			t.Errorf("the import table has a row for %s, which has no files", name)
		}
	}
}

func TestHomes(t *testing.T) {
	for _, src := range sources(t) {
		if src.test() {
			continue
		}
		for _, imported := range src.imports {
			for dependency, home := range homes {
				if beneath(imported, dependency) && !within(src.folder(), strings.Fields(home)) {
					t.Errorf("%s imports %s, whose home is [%s]", src.file, imported, home)
				}
			}
		}
	}
}

// The table itself points downwards: no group reaches itself through others.
func TestNoCycle(t *testing.T) {
	var reach func(from string, trail []string)
	reach = func(from string, trail []string) {
		if slices.Contains(trail, from) {
			t.Fatalf("the import table has a cycle: %v", append(trail, from))
		}
		for _, to := range strings.Fields(allowed[from]) {
			if _, ok := allowed[to]; !ok {
				t.Errorf("the row of %s names %s, which has none", from, to)
			}
			reach(to, append(trail, from))
		}
	}
	for from := range allowed {
		reach(from, nil)
	}
}

// group is the row that a folder belongs to.
func group(folder string) string {
	elements := strings.Split(folder, "/")
	switch {
	case folder == "." || folder == "":
		return "stowage"
	case elements[0] == "internal" && len(elements) > 1:
		return elements[1]
	default:
		return elements[0]
	}
}

func within(name string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return beneath(name, folder) })
}

func beneath(name, folder string) bool {
	return name == folder || strings.HasPrefix(name, folder+"/")
}

// sources reads the imports of every file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var found []source
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (entry.Name()[0] == '.' || entry.Name() == "testdata"):
			return filepath.SkipDir
		case entry.IsDir() || filepath.Ext(name) != ".go":
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		src := source{file: filepath.ToSlash(name)}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			src.imports = append(src.imports, imported)
		}
		found = append(found, src)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
