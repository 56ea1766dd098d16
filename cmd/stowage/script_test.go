package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"stowage": main})
}

// TestScripts runs the stories in testdata/script. Each is a manual page that is true.
//
// Beside testscript's own commands there are:
//
//	push REPO:TAG KIND   puts an image into the registry at $REG (another is at $OTHER); $IMAGE_KIND is its digest,
//	                     $BLOBn_KIND that of its nth blob, and $HEXn_KIND the hex of it
//	blob DIGEST          sets $BLOB to the file of a blob below $STOWAGE_ROOT
//	flip FILE            changes one byte in the middle of a file
//	rows spoil|drop KEYS makes the rows of the database whose keys begin so unreadable, or removes them
//	snapshot NAME N      sets $SNAPSHOT and $FOLDER to the key and folder of the nth layer that snapshotter NAME has unpacked
//	forget NAME KEY      takes the row of a snapshot out of the database
//	delete REPO DIGEST   makes the registry at $REG lose a blob
//	gets HOST DIGEST...  fails unless exactly these blobs were read from a registry since the last time, each once;
//	                     - is whatever they were
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"REG", "OTHER"} {
				var log *registrytest.Proxy
				reg, err := registrytest.New(registrytest.Options{Wrap: func(h http.Handler) http.Handler {
					log = registrytest.Wrap(h)
					return log
				}})
				if err != nil {
					return err
				}
				env.Values[logOf(reg.Host)] = log
				env.Defer(func() {
					if err := reg.Close(); err != nil {
						t.Errorf("close the registry: %v", err)
					}
				})
				env.Setenv(name, reg.Host)
			}
			env.Setenv("STOWAGE_ROOT", filepath.Join(env.WorkDir, "store"))
			env.Setenv("STOWAGE_CONFIG", filepath.Join(env.WorkDir, "config.toml"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("HANGS_UP", hangsUp(env))
			return os.WriteFile(filepath.Join(env.WorkDir, "config.toml"), nil, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"push":   cmdPush,
			"blob":   cmdBlob,
			"flip":   cmdFlip,
			"rows":   cmdRows,
			"delete": cmdDelete,
			"gets":   cmdGets,

			"snapshot": cmdSnapshot,
			"forget":   cmdForget,
		},
	})
}

// hangsUp starts a server that is no registry and gives its address.
func hangsUp(env *testscript.Env) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>welcome</html>")) // the client may be gone
	}))
	env.Defer(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// fixture builds the images that scripts name by kind.
func fixture(kind string) (*imagetest.Image, error) {
	tars := []imagetest.Tar{imagetest.Seeded(1, 20_000), imagetest.Seeded(2, 300_000), imagetest.Seeded(3, 5_000)}
	spec := func(p stowage.Platform, env string) (*imagetest.Image, error) {
		return imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...), Platform: p, Env: []string{env}}.Build("")
	}
	switch kind {
	case "first":
		return imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...), Docker: true}.Build("")
	case "recompressed": // the layers of first, compressed in another way
		return imagetest.Spec{Layers: imagetest.Layers(imagetest.Zstd, tars...)}.Build("")
	case "octet": // as Docker before 1.10 pushed it: redis:2.8.23
		return imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...), Docker: true, ConfigType: imagetest.OctetStream}.Build("")
	case "arm": // no index says what it is for, only its config
		return spec(stowage.Platform{OS: "linux", Architecture: "arm64"}, "A=arm")
	case "multi":
		host, err := spec(stowage.Platform{OS: "linux", Architecture: "amd64"}, "A=host")
		if err != nil {
			return nil, err
		}
		arm, err := imagetest.Spec{
			Layers:   imagetest.Layers(imagetest.Gzip, imagetest.Seeded(7, 40_000)),
			Platform: stowage.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"},
		}.Build("")
		if err != nil {
			return nil, err
		}
		return imagetest.Index(host, arm, imagetest.Attestation(host)), nil
	case "artifact":
		return imagetest.Artifact("application/vnd.example.sbom", []byte("{}\n"), nil), nil
	}
	return nil, os.ErrNotExist
}

func cmdPush(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: push REPO:TAG KIND")
	}
	img, err := fixture(args[1])
	ts.Check(err)
	repo, tag, _ := strings.Cut(args[0], ":")
	ts.Check(imagetest.Push(context.Background(), ts.Getenv("REG"), repo, tag, img))
	ts.Setenv("IMAGE_"+args[1], img.Root.Digest.String())
	for i, b := range img.Blobs {
		ts.Setenv(fmt.Sprintf("BLOB%d_%s", i, args[1]), b.Digest.String())
		ts.Setenv(fmt.Sprintf("HEX%d_%s", i, args[1]), b.Digest.Encoded())
	}
}

func cmdBlob(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: blob DIGEST")
	}
	d := digest.Digest(args[0])
	ts.Check(d.Validate())
	ts.Setenv("BLOB", filepath.Join(ts.Getenv("STOWAGE_ROOT"), "content", "blobs", d.Algorithm().String(), d.Encoded()))
}

func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flip FILE")
	}
	name := ts.MkAbs(args[0])
	ts.Check(os.Chmod(name, 0o644))
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)/2] ^= 0x40
	ts.Check(os.WriteFile(name, b, 0o644))
}

func cmdDelete(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: delete REPO DIGEST")
	}
	req, err := http.NewRequest(http.MethodDelete, "http://"+ts.Getenv("REG")+"/v2/"+args[0]+"/blobs/"+args[1], nil)
	ts.Check(err)
	res, err := http.DefaultClient.Do(req)
	ts.Check(err)
	ts.Check(res.Body.Close())
	if res.StatusCode != http.StatusAccepted {
		ts.Fatalf("delete %s: %s", args[1], res.Status)
	}
}

// logOf is the key of the requests to the registry at a host.
type logOf string

func cmdGets(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: gets HOST DIGEST...")
	}
	log := ts.Value(logOf(args[0])).(*registrytest.Proxy)
	var got []string
	for _, r := range log.Requests() {
		if _, d, ok := strings.Cut(r.Path, "/blobs/sha256:"); ok && r.Method == http.MethodGet {
			got = append(got, "sha256:"+d)
		}
	}
	log.Forget()
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(args[1:])); !slices.Equal(got, want) && args[len(args)-1] != "-" {
		ts.Fatalf("blobs read from %s:\n%s\nwant:\n%s", args[0], strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func cmdRows(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: rows spoil|drop KEYS")
	}
	db, err := bolt.Open(filepath.Join(ts.Getenv("STOWAGE_ROOT"), "metadata", "meta.db"), bolt.Options{})
	ts.Check(err)
	n := 0
	ts.Check(db.Update(context.Background(), func(w kv.Writer) error {
		var keys [][]byte
		for e, err := range w.Scan([]byte(args[1])) {
			if err != nil {
				return err
			}
			keys = append(keys, bytes.Clone(e.Key))
		}
		for _, k := range keys {
			n++
			err := w.Delete(k)
			if args[0] == "spoil" {
				err = w.Put(k, []byte("{\xff"))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	if n == 0 {
		ts.Fatalf("no row begins with %s", args[1])
	}
}
