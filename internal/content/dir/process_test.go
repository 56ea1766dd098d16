package dir_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content/contenttest"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/vfs"
)

// roleVar makes the test binary a second process, which does what its value names to the store
// in the folder rootVar.
const (
	roleVar = "CONTENT_TEST_ROLE"
	rootVar = "CONTENT_TEST_ROOT"
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVar)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := play(role, os.Getenv(rootVar)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// shared is the blob that the processes write.
var shared = contenttest.Bytes(50, 40<<20)

// play begins the shared blob, writes 35 MiB of it (whole: all), says so, and does the rest when
// told to.
func play(role, root string) error {
	disk, err := vfs.OS(root)
	if err != nil {
		return err
	}
	s, err := dir.Open(disk)
	if err != nil {
		return err
	}
	ctx := context.Background()
	in, err := s.Begin(ctx, "k", wantOf(shared))
	if err != nil {
		return err
	}
	end := 35 << 20
	if role == "whole" {
		end = len(shared)
	}
	for off := 0; off < end; off += 1 << 20 {
		if _, err := in.WriteAt(shared[off:off+1<<20], int64(off)); err != nil {
			return err
		}
	}
	fmt.Println("written")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil { // until the test closes it
		return err
	}
	if role == "close" {
		return in.Close()
	}
	if _, err := in.WriteAt(shared[35<<20:], 35<<20); err != nil {
		return err
	}
	return s.Commit(ctx, in)
}

// A process is a second one, which has written what [play] does at first.
type process struct {
	*exec.Cmd
	stdin io.Closer
}

func start(t *testing.T, role, root string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0])}
	p.Env = append(os.Environ(), roleVar+"="+role, rootVar+"="+root)
	var err error
	p.stdin, err = p.StdinPipe()
	must(t, err)
	stdout, err := p.StdoutPipe()
	must(t, err)
	must(t, p.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); strings.TrimSpace(line) != "written" {
		t.Fatalf("second process: got %q, %v", line, err)
	}
	return p
}

// goOn lets the process do the rest.
func (p *process) goOn(t *testing.T) {
	t.Helper()
	must(t, p.stdin.Close())
}

func TestKilledWriterIsResumed(t *testing.T) {
	root := t.TempDir()
	p := start(t, "commit", root)
	disk := &tracer{FS: openOS(t, root)}
	s := open(t, disk)
	if _, err := s.Begin(t.Context(), "k", wantOf(shared)); !errdefs.IsUnavailable(err) {
		t.Fatalf("while another process writes it: got %v, want %v", err, errdefs.ErrUnavailable)
	}
	list, err := s.Ingests(t.Context())
	if err != nil || len(list) != 1 || !list[0].Busy || list[0].Key != "k" || list[0].Offset != 35<<20 {
		t.Errorf("Ingests: got %v, %v, want one that is busy", list, err)
	}
	must(t, p.Process.Kill())
	_ = p.Wait() // it was killed, and says so

	want := wantOf(shared)
	want.Wait = true
	disk.take()
	in, err := s.Begin(t.Context(), "k", want)
	must(t, err)
	if in.Offset() < 35<<20-4<<20 || in.Offset() > 35<<20 {
		t.Errorf("after kill -9: got %d bytes, want all but at most 4 MiB", in.Offset())
	}
	_, err = in.WriteAt(shared[in.Offset():], in.Offset())
	must(t, err)
	must(t, s.Commit(t.Context(), in))
	for _, call := range disk.take() {
		if call == "read ingest/ID/data" {
			t.Error("the partial file was read")
		}
	}
	readable(t, s, shared)
}

// A blob that is whole may wait long for a commit together with others.
func TestKilledWholeIsKept(t *testing.T) {
	root := t.TempDir()
	p := start(t, "whole", root)
	must(t, p.Process.Kill())
	_ = p.Wait() // it was killed, and says so
	s := open(t, openOS(t, root))
	in, err := s.Begin(t.Context(), "k", wantOf(shared))
	must(t, err)
	if in.Offset() != int64(len(shared)) {
		t.Errorf("after kill -9: got %d bytes, want %d", in.Offset(), len(shared))
	}
	must(t, s.Commit(t.Context(), in))
	readable(t, s, shared)
}

func TestClosedInAnotherProcessIsResumed(t *testing.T) {
	root := t.TempDir()
	p := start(t, "close", root)
	p.goOn(t)
	must(t, p.Wait())
	in, err := open(t, openOS(t, root)).Begin(t.Context(), "k", wantOf(shared))
	must(t, err)
	if in.Offset() != 35<<20 || in.Digest() != digest.FromBytes(shared[:35<<20]) {
		t.Errorf("got %d bytes of %s, want %d", in.Offset(), in.Digest(), 35<<20)
	}
	must(t, in.Abort())
}

func TestSecondProcessFindsItDone(t *testing.T) {
	root := t.TempDir()
	p := start(t, "commit", root)
	s := open(t, openOS(t, root))
	result := make(chan error, 1)
	go func() {
		want := wantOf(shared)
		want.Wait = true
		_, err := s.Begin(t.Context(), "k", want)
		result <- err
	}()
	p.goOn(t)
	must(t, p.Wait())
	if err := <-result; !errdefs.IsAlreadyExists(err) {
		t.Errorf("got %v, want %v", err, errdefs.ErrAlreadyExists)
	}
	readable(t, s, shared)
	if list, err := s.Ingests(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("Ingests: got %v, %v, want none", list, err)
	}
}
