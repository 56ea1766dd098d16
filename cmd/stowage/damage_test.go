package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/registry/registrytest"
)

// TestDamagedDatabase damages the database in many ways. Each is told in one line, with the exit
// status of damage, whatever the command.
func TestDamagedDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.push("app", "1", 20_000)
	name := r.host + "/app:1"
	r.must("pull", "-q", name)
	db := filepath.Join(r.root, "metadata", "meta.db")
	good, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	zeroed := append([]byte(nil), good...)
	clear(zeroed[len(zeroed)/4:])
	for _, tt := range []struct {
		name  string
		bytes []byte
	}{
		{"words", []byte("these are only words\n")},
		{"much garbage", bytes.Repeat([]byte("garbage "), 8192)},
		{"one byte", good[:1]},
		{"half a page", good[:2048]},
		{"one page", good[:4096]},
		{"two pages", good[:8192]},
		{"half", good[:len(good)/2]},
		{"zeros", make([]byte, len(good))},
		{"zeros behind the head", zeroed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := *r
			r.t = t
			if err := os.WriteFile(db, tt.bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{
				{"images"},
				{"image", "info", name},
				{"pull", "-q", name},
				{"rmi", name},
				{"content", "prune"},
			} {
				r.fails(4, "database "+db+": .*(damaged|cut off|not what it should be)", args...)
			}
			// What needs no database still works: nothing is lost but names.
			r.must("content", "verify", "--all")
		})
	}
	// An empty file could be that of a new store, were it not for the journal beside the blobs.
	if err := os.WriteFile(db, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"images"}, {"pull", "-q", name}} {
		r.fails(4, "the database is empty, and its journal of names has 1: it was lost$", args...)
	}
	if err := os.WriteFile(db, good, 0o600); err != nil {
		t.Fatal(err)
	}
	r.named(name)
	r.must("image", "check", "--verify")
}

// TestTruncatedBlob cuts a layer short on the disk: it is found without reading, never handed on
// as whole, and mended by a pull or an import.
func TestTruncatedBlob(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	img := r.push("app", "1", 50_000)
	name := r.host + "/app:1"
	r.must("pull", "-q", name)
	d := img.Manifest().Layers[0].Digest
	blob := filepath.Join(r.root, "content", "blobs", d.Algorithm().String(), d.Encoded())
	file, good := filepath.Join(t.TempDir(), "app.tar"), filepath.Join(t.TempDir(), "good.tar")
	r.must("export", "--progress", "none", good, name)
	for _, size := range []int64{0, 1, 10_000, img.Manifest().Layers[0].Size - 1} {
		if err := os.Chmod(blob, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(blob, size); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"image", "check"}, {"image", "check", "--verify"}, {"content", "verify", d.String()}, {"content", "verify", "--all"}} {
			if out, errs, status := r.run(args...); status != 4 || !strings.Contains(out, d.String()) {
				t.Errorf("%d bytes: %s: status %d, want 4 and the digest: %s%s", size, strings.Join(args, " "), status, out, errs)
			}
		}
		r.fails(4, d.String(), "content", "get", d.String())
		r.fails(4, "^export: .*"+d.String(), "export", "--progress", "none", file, name)
		r.fails(4, "^export: .*"+d.String(), "content", "export", file)
		if _, err := os.Stat(file); err == nil {
			t.Fatalf("%d bytes: there is an export", size)
		}
		if size == 1 {
			r.must("load", "-q", "-i", good)
		} else {
			r.must("pull", "-q", name)
		}
		r.must("image", "check", "--verify")
	}
}

// TestWrongSize pulls a manifest that is wrong about the size of a layer, which is in the store or
// is not.
func TestWrongSize(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	img := r.push("app", "1", 50_000)
	layer := img.Manifest().Layers[0]
	root, _ := img.Blob(img.Root.Digest)
	body, err := root.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	tag := func(tag string, size int64) {
		t.Helper()
		wrong := bytes.Replace(body, fmt.Appendf(nil, `"size":%d`, layer.Size), fmt.Appendf(nil, `"size":%d`, size), 1)
		registry := registrytest.Registry{Host: r.host}
		if err := registry.PushManifest(t.Context(), "app", tag, root.MediaType, wrong); err != nil {
			t.Fatal(err)
		}
	}
	tag("less", layer.Size-1)
	tag("more", layer.Size+1)
	r.fails(4, "has more than the [0-9]+ bytes of "+layer.Digest.String()+"$", "pull", "-q", r.host+"/app:less")
	r.must("pull", "-q", r.host+"/app:1")
	r.fails(4, layer.Digest.String()+" has [0-9]+ bytes where [0-9]+ were expected$", "pull", "-q", r.host+"/app:less")
	r.fails(1, layer.Digest.String()+" has [0-9]+ bytes where [0-9]+ were expected$", "pull", "-q", r.host+"/app:more")
	r.named(r.host + "/app:1")
	r.must("image", "check", "--verify")
}

// An entry of a hostile archive.
type entry struct {
	tar.Header
	body string
}

// pack makes a tar of entries.
func pack(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size, e.Mode = int64(len(e.body)), 0o644
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, body string) entry { return entry{tar.Header{Name: name, Typeflag: tar.TypeReg}, body} }

func link(kind byte, name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: kind, Linkname: to}, ""}
}

// TestHostileArchives imports what is no archive, or one that means harm. Nothing is named, and
// nothing is written outside of the store.
func TestHostileArchives(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.push("app", "1", 200_000, 30_000)
	name := r.host + "/app:1"
	r.must("pull", "-q", name)
	dir := t.TempDir()
	good := filepath.Join(dir, "good.tar")
	r.must("export", "--progress", "none", good, name)
	r.must("rmi", "--gc", name)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(whole); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)/2] ^= 0x40
	config := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + digest.FromString("x").String() + `"]}}`
	docker := func(layer string) string {
		b, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{"evil:1"}, "Layers": []string{layer}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, tt := range []struct {
		name   string
		bytes  []byte
		status int
		want   string
	}{
		{"a layer of other bytes", flipped, 4, "hash to sha256:"},
		{"words", []byte("these are only words\n"), 4, "truncated"},
		{"many words", bytes.Repeat([]byte("these are only words\n"), 10_000), 1, "not a tar, or of an unknown compression"},
		{"empty", nil, 1, "the archive is empty$"},
		{"lz4", append([]byte{0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7}, whole[:100_000]...), 1, "unknown compression"},
		{"truncated in a header", whole[:700], 4, "truncated"},
		{"truncated in a layer", whole[:len(whole)/2], 4, "truncated"},
		{"truncated before the lists", whole[:len(whole)-4096], 4, "truncated"},
		{"truncated gzip", zipped.Bytes()[:zipped.Len()/2], 4, "truncated"},
		{"gzip of nothing", zipped.Bytes()[:10], 4, "truncated"},
		{"a tar without images", pack(t, file("README", "hello")), 1, "neither an OCI layout nor a docker archive"},
		{"upwards", pack(t, file("../evil", "evil")), 1, `entry "../evil": its name contains '..'$`},
		{"upwards in the middle", pack(t, file("blobs/../../evil", "evil")), 1, "its name contains '..'$"},
		{"absolute", pack(t, file(filepath.Join(dir, "evil"), "evil")), 1, "its name is absolute$"},
		{"link out", pack(t, link(tar.TypeSymlink, "layer.tar", "/etc/passwd")), 1, "leaves the archive$"},
		{"link up", pack(t, link(tar.TypeSymlink, "layer.tar", "../../etc/passwd")), 1, "leaves the archive$"},
		{"hard link out", pack(t, link(tar.TypeLink, "layer.tar", "/etc/passwd")), 1, "its name is absolute$"},
		{"hard link up", pack(t, link(tar.TypeLink, "layer.tar", "../../etc/passwd")), 1, "its name contains '..'$"},
		{"device", pack(t, entry{tar.Header{Name: "layer.tar", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5}, ""}), 1, "entries of type"},
		{"pipe", pack(t, entry{tar.Header{Name: "layer.tar", Typeflag: tar.TypeFifo}, ""}), 1, "entries of type"},
		{"link in a circle", pack(t, file("config.json", config), link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), file("manifest.json", docker("a"))), 1, "too many links$"},
		{"listed upwards", pack(t, file("config.json", config), file("manifest.json", docker("../../../etc/passwd"))), 1, "contains '..'$"},
		{"listed and absent", pack(t, file("config.json", config), file("manifest.json", docker("nothing.tar"))), 4, "not in the archive$"},
		{"lists twice", pack(t, file("index.json", "{}"), file("index.json", "{}")), 1, "stands twice in the archive$"},
		{"lists of words", pack(t, file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", "words")), 1, "index.json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := *r
			r.t = t
			archive := filepath.Join(dir, "archive")
			if err := os.WriteFile(archive, tt.bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			r.fails(tt.status, "^import: .*"+tt.want, "load", "-q", "-i", archive)
			r.named()
			if got := entries(t, dir); len(got) != 2 {
				t.Errorf("there is %q, want the archives alone", got)
			}
		})
	}
	r.must("import", "-q", good)
	r.named(name)
	r.must("image", "check", "--verify")
}

// TestHostileFolders imports folders that are no layouts, or that lead out of themselves.
func TestHostileFolders(t *testing.T) {
	t.Parallel()
	r := newRoot(t, "")
	secret := []byte("a secret of the machine")
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(secret)
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, d, len(secret))
	write := func(dir, name, body string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	symlink := func(dir, name, to string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	const layout = `{"imageLayoutVersion":"1.0.0"}`
	blob := "blobs/sha256/" + d.Encoded()
	for _, tt := range []struct {
		name   string
		make   func(dir string)
		status int
		want   string
	}{
		{"empty", func(string) {}, 1, "it has no index.json$"},
		{"other files", func(dir string) { write(dir, "README", "hello") }, 1, "it has no index.json$"},
		{"index of words", func(dir string) { write(dir, "oci-layout", layout); write(dir, "index.json", "words") }, 1, "index.json"},
		{"index that is a folder", func(dir string) { write(dir, "oci-layout", layout); write(dir, "index.json/x", "") }, 1, "index.json"},
		{"index that leads out", func(dir string) { write(dir, "oci-layout", layout); symlink(dir, "index.json", outside) }, 1, "index.json"},
		{"blob that leads out", func(dir string) {
			write(dir, "oci-layout", layout)
			write(dir, "index.json", index)
			symlink(dir, blob, outside)
		}, 1, d.Encoded()},
		{"blobs that lead out", func(dir string) {
			write(dir, "oci-layout", layout)
			write(dir, "index.json", index)
			symlink(dir, "blobs", filepath.Dir(outside))
		}, 1, "blobs"},
		{"blob that is a pipe", func(dir string) {
			write(dir, "oci-layout", layout)
			write(dir, "index.json", index)
			write(dir, "blobs/sha256/.keep", "")
			if err := syscall.Mkfifo(filepath.Join(dir, blob), 0o644); err != nil {
				t.Fatal(err)
			}
		}, 1, d.Encoded()},
		{"blob that is cut short", func(dir string) {
			write(dir, "oci-layout", layout)
			write(dir, "index.json", index)
			write(dir, blob, "a secret")
		}, 4, d.Encoded()},
		{"blob that is absent", func(dir string) { write(dir, "oci-layout", layout); write(dir, "index.json", index) }, 4, d.Encoded()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := *r
			r.t = t
			dir := t.TempDir()
			tt.make(dir)
			begun := time.Now()
			r.fails(tt.status, "^import: .*("+tt.want+")", "load", "-q", "-i", dir)
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			r.named()
		})
	}
	r.fails(3, "^import: .*nothing.tar: no such file or directory$", "load", "-q", "-i", filepath.Join(t.TempDir(), "nothing.tar"))
	r.fails(3, "nothing.tar: no such file or directory$", "content", "import", filepath.Join(t.TempDir(), "nothing.tar"))
}
