package dir_test

import (
	"context"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/vfs"
)

// A tracer writes down the calls made to a disk.
type tracer struct {
	vfs.FS
	before func() // called before each call, if set
	mu     sync.Mutex
	calls  []string
}

func (d *tracer) note(call, name string) {
	if d.before != nil {
		d.before()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call+" "+short(name))
}

// short puts letters in the place of long names.
func short(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		if len(p) >= 64 {
			parts[i] = map[string]string{"ingest": "ID", "sha256": "HEX"}[parts[i-1]] + p[64:]
		}
	}
	return strings.TrimPrefix(path.Join(parts...), "content/")
}

func (d *tracer) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

func (d *tracer) Create(name string, perm fs.FileMode) (vfs.File, error) {
	d.note("create", name)
	return d.file(name)(d.FS.Create(name, perm))
}

func (d *tracer) Open(name string) (vfs.File, error) {
	d.note("open", name)
	return d.file(name)(d.FS.Open(name))
}

func (d *tracer) file(name string) func(vfs.File, error) (vfs.File, error) {
	return func(f vfs.File, err error) (vfs.File, error) {
		if err != nil {
			return nil, err
		}
		return tracedFile{f, d, name}, nil
	}
}

func (d *tracer) Mkdir(name string, perm fs.FileMode) error {
	d.note("mkdir", name)
	return d.FS.Mkdir(name, perm)
}

func (d *tracer) Rename(oldname, newname string) error {
	d.note("rename", oldname)
	return d.FS.Rename(oldname, newname)
}

func (d *tracer) Remove(name string) error {
	d.note("remove", name)
	return d.FS.Remove(name)
}

func (d *tracer) Chmod(name string, perm fs.FileMode) error {
	d.note("chmod", name)
	return d.FS.Chmod(name, perm)
}

func (d *tracer) ReadDir(name string) ([]fs.DirEntry, error) {
	d.note("readdir", name)
	return d.FS.ReadDir(name)
}

func (d *tracer) Lstat(name string) (fs.FileInfo, error) {
	d.note("lstat", name)
	return d.FS.Lstat(name)
}

func (d *tracer) SyncDir(name string) error {
	d.note("syncdir", name)
	return d.FS.SyncDir(name)
}

func (d *tracer) SyncAll() error {
	d.note("syncall", "")
	return d.FS.SyncAll()
}

type tracedFile struct {
	vfs.File
	disk *tracer
	name string
}

func (f tracedFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.note("read", f.name)
	return f.File.ReadAt(p, off)
}

func (f tracedFile) WriteAt(p []byte, off int64) (int, error) {
	f.disk.note("write", f.name)
	return f.File.WriteAt(p, off)
}

func (f tracedFile) Truncate(size int64) error {
	f.disk.note("truncate", f.name)
	return f.File.Truncate(size)
}

func (f tracedFile) Sync() error {
	f.disk.note("sync", f.name)
	return f.File.Sync()
}

func (f tracedFile) Lock(ctx context.Context) error {
	f.disk.note("lock", f.name)
	return f.File.Lock(ctx)
}

// The order is what durability rests on, and the number of calls what an import of thousands of
// small blobs costs.
func TestCallsOfOneSmallBlob(t *testing.T) {
	disk := &tracer{FS: vfs.NewMem()}
	s := open(t, disk)
	disk.take()
	p := contenttest.Bytes(1, 1000)
	must(t, content.Put(t.Context(), s, digest.FromBytes(p), p))
	want := []string{
		"lstat blobs/sha256/HEX",
		"create ingest/ID",
		"lock ingest/ID",
		"lstat ingest/ID",
		"open ingest/ID.state",
		"lstat blobs/sha256/HEX",
		"write ingest/ID",
		"chmod ingest/ID",
		"sync ingest/ID",
		"rename ingest/ID",
		"syncdir blobs/sha256",
		"chmod blobs/sha256/HEX",
	}
	if got := disk.take(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	must(t, content.Put(t.Context(), s, digest.FromBytes(p), p))
	if got, want := disk.take(), []string{"lstat blobs/sha256/HEX"}; !slices.Equal(got, want) {
		t.Errorf("a blob that is stored: got %v, want %v", got, want)
	}
	open(t, disk)
	if got, want := disk.take(), []string{"lstat ingest"}; !slices.Equal(got, want) {
		t.Errorf("open a store that is there: got %v, want %v", got, want)
	}
}

func TestManyBlobsAreFlushedOnce(t *testing.T) {
	disk := &tracer{FS: vfs.NewMem()}
	s := open(t, disk)
	var list []content.Ingest
	for i := range 100 {
		list = append(list, filled(t, s, contenttest.Bytes(uint64(i), 100)))
	}
	disk.take()
	must(t, s.Commit(t.Context(), list...))
	count := map[string]int{}
	for _, call := range disk.take() {
		count[strings.Fields(call)[0]]++
	}
	for call, want := range map[string]int{"syncall": 1, "syncdir": 1, "sync": 0, "rename": 100, "chmod": 200, "remove": 0, "lstat": 0} {
		if count[call] != want {
			t.Errorf("%s: got %d calls, want %d", call, count[call], want)
		}
	}
}

func TestResumeReadsNoData(t *testing.T) {
	p := contenttest.Bytes(1, 40<<20)
	want := content.Want{Digest: digest.FromBytes(p), Size: int64(len(p))}
	mem := vfs.NewMem()
	in, err := open(t, mem).Begin(t.Context(), "k", want)
	must(t, err)
	_, err = in.WriteAt(p[:35<<20], 0)
	must(t, err)
	must(t, in.Close())
	disk := &tracer{FS: mem}
	s := open(t, disk)
	in, err = s.Begin(t.Context(), "k", want)
	must(t, err)
	if in.Offset() != 35<<20 {
		t.Fatalf("got %d bytes, want %d", in.Offset(), 35<<20)
	}
	_, err = in.WriteAt(p[35<<20:], 35<<20)
	must(t, err)
	must(t, s.Commit(t.Context(), in))
	if calls := disk.take(); slices.Contains(calls, "read ingest/ID") {
		t.Errorf("it was read back: %v", calls)
	}
	readable(t, s, p)
}

// filled begins an ingest of p by its digest and writes all of it.
func filled(t testing.TB, s content.Store, p []byte) content.Ingest {
	t.Helper()
	d := digest.FromBytes(p)
	in, err := s.Begin(t.Context(), d.String(), content.Want{Digest: d, Size: int64(len(p))})
	must(t, err)
	_, err = in.WriteAt(p, 0)
	must(t, err)
	return in
}

func readable(t testing.TB, s content.Store, p []byte) {
	t.Helper()
	if _, err := content.ReadBlob(t.Context(), s, digest.FromBytes(p), int64(len(p))); err != nil {
		t.Fatal(err)
	}
}
