package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

var kills = flag.Int("kills", 50, "how often the kill drill kills a pull")

// A rig is a registry, a store, and the command as a process of its own.
type rig struct {
	t    *testing.T
	bin  string
	root string
	host string
	seen func() []string // the requests so far, as METHOD path
	end  func()          // of the registry, before the test ends
}

// newRig starts a registry that serves at most rate bytes a second on each connection; 0 is as
// fast as it goes.
func newRig(t *testing.T, rate int) *rig {
	t.Helper()
	var mu sync.Mutex
	var requests []string
	reg, err := registrytest.New(registrytest.Options{Wrap: func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			requests = append(requests, r.Method+" "+r.URL.Path)
			mu.Unlock()
			if rate > 0 && r.Method == http.MethodGet {
				w = &slowWriter{w, rate}
			}
			h.ServeHTTP(w, r)
		})
	}})
	if err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		if err := reg.Close(); err != nil {
			t.Errorf("close the registry: %v", err)
		}
	})
	t.Cleanup(end)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "stowage") // the test binary under this name is the command
	if err := os.Symlink(self, bin); err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, bin: bin, root: filepath.Join(dir, "store"), host: reg.Host, end: end, seen: func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), requests...)
	}}
}

// slowWriter lets bytes through at a rate.
type slowWriter struct {
	http.ResponseWriter
	rate int
}

func (s *slowWriter) Write(p []byte) (int, error) {
	const piece = 32 << 10
	n := 0
	for len(p) > 0 {
		part := p[:min(len(p), piece)]
		m, err := s.ResponseWriter.Write(part)
		n += m
		if err != nil {
			return n, err
		}
		p = p[m:]
		time.Sleep(time.Duration(m) * time.Second / time.Duration(s.rate))
	}
	return n, nil
}

func (r *rig) push(repo, tag string, layers ...int64) *imagetest.Image {
	r.t.Helper()
	var tars []imagetest.Tar
	for i, size := range layers {
		tars = append(tars, imagetest.Seeded(uint64(100+i), size))
	}
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, tars...)}.Build("")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := imagetest.Push(r.t.Context(), r.host, repo, tag, img); err != nil {
		r.t.Fatal(err)
	}
	return img
}

func (r *rig) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(r.t.Context(), r.bin, args...)
	cmd.Env = append(os.Environ(), "STOWAGE_ROOT="+r.root, "STOWAGE_CONFIG=/dev/null")
	return cmd
}

// run runs the command to its end and gives its output and exit status.
func (r *rig) run(args ...string) (stdout, stderr string, status int) {
	r.t.Helper()
	var out, errs bytes.Buffer
	cmd := r.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (r *rig) must(args ...string) string {
	r.t.Helper()
	out, errs, status := r.run(args...)
	if status != 0 {
		r.t.Fatalf("stowage %s: status %d: %s%s", strings.Join(args, " "), status, out, errs)
	}
	return out
}

// TestKilledPulls kills pulls at random moments. Whatever the moment, the image is then absent,
// or listed as partial, or complete and verified; and in the end a pull completes it.
func TestKilledPulls(t *testing.T) {
	r := newRig(t, 20<<20)
	r.push("app", "1", 2<<20, 3<<20, 1<<20, 200_000, 2<<20, 4<<20)
	name := r.host + "/app:1"

	begun := time.Now()
	r.must("pull", "-q", name)
	whole := time.Since(begun)
	r.must("rmi", "--gc", name)

	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	absent, partial, complete := 0, 0, 0
	for i := range *kills {
		cmd := r.command("pull", "-q", name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(whole + whole/8))))
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed, or done just before: both are meant

		var images []struct{ State stowage.State }
		if err := json.Unmarshal([]byte(r.must("images", "--format", "json")), &images); err != nil {
			t.Fatal(err)
		}
		switch {
		case len(images) == 0:
			absent++
		case images[0].State == stowage.Complete:
			complete++
			if out, errs, status := r.run("image", "check", "--verify"); status != 0 {
				t.Fatalf("seed %d, kill %d: listed as complete, but: status %d\n%s%s", seed, i, status, out, errs)
			}
			r.must("rmi", "--gc", name)
		default:
			partial++
		}
	}
	t.Logf("%d kills: %d absent, %d partial, %d complete and verified", *kills, absent, partial, complete)
	if absent == 0 {
		t.Errorf("no kill hit a running pull")
	}
	r.must("pull", "-q", name)
	r.must("image", "check", "--verify")
}

// TestPullsShareTheWork has two processes pull one image at once: each blob is fetched once.
func TestPullsShareTheWork(t *testing.T) {
	r := newRig(t, 8<<20)
	img := r.push("app", "1", 2<<20, 3<<20, 1<<20, 2<<20)
	name := r.host + "/app:1"
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if out, errs, status := r.run("pull", name); status != 0 {
				t.Errorf("status %d: %s%s", status, out, errs)
			}
		}()
	}
	wg.Wait()
	got := map[string]int{}
	for _, req := range r.seen() {
		got[req]++
	}
	for _, l := range img.Manifest().Layers {
		if n := got["GET /v2/app/blobs/"+l.Digest.String()]; n != 1 {
			t.Errorf("layer %s was fetched %d times, want once", l.Digest, n)
		}
	}
	r.must("image", "check", "--verify")
}

// TestPullGoesOn interrupts a pull as Ctrl-C does; the next one does not begin again.
func TestPullGoesOn(t *testing.T) {
	for _, how := range []struct {
		name   string
		signal os.Signal
		status int
	}{{"interrupted", os.Interrupt, 130}, {"killed", os.Kill, -1}} {
		t.Run(how.name, func(t *testing.T) {
			r := newRig(t, 16<<20)
			r.push("app", "1", 48<<20) // 24 MiB when it is compressed
			name := r.host + "/app:1"
			cmd := r.command("pull", "--progress", "json", name)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var errs bytes.Buffer
			signalled := false
			for events := json.NewDecoder(io.TeeReader(stderr, &errs)); !signalled; {
				var e stowage.ProgressEvent
				if err := events.Decode(&e); err != nil {
					t.Fatalf("%v: %s", err, errs.String())
				}
				if e.Offset > 17<<20 { // past the first checkpoint
					signalled = true
					if err := cmd.Process.Signal(how.signal); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := io.Copy(&errs, stderr); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // its status is compared below
			if got := cmd.ProcessState.ExitCode(); got != how.status {
				t.Fatalf("exit status %d, want %d: %s", got, how.status, errs.String())
			}
			if out := r.must("images", "-q"); out != "" {
				t.Errorf("an interrupted pull named %s", out)
			}
			_, errText, status := r.run("pull", "--progress", "plain", name)
			if status != 0 || !strings.Contains(errText, "goes on from") {
				t.Errorf("status %d, want 0 and a pull that goes on: %s", status, errText)
			}
			r.must("image", "check", "--verify")
		})
	}
}

// TestPullWarm sees that an unchanged image costs one request.
func TestPullWarm(t *testing.T) {
	r := newRig(t, 0)
	r.push("app", "1", 10_000, 20_000)
	name := r.host + "/app:1"
	r.must("pull", name)
	before := len(r.seen())
	r.must("pull", name)
	if got := r.seen()[before:]; len(got) != 1 || got[0] != "HEAD /v2/app/manifests/1" {
		t.Errorf("a second pull asked %q, want one HEAD", got)
	}
}

// TestExportToClosedPipe sees that a reader that goes away is an error.
func TestExportToClosedPipe(t *testing.T) {
	r := newRig(t, 0)
	r.push("app", "1", 2<<20)
	name := r.host + "/app:1"
	r.must("pull", name)
	cmd := r.command("save", name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit status %d, want 1", cmd.ProcessState.ExitCode())
	}
	if !strings.Contains(errs.String(), "broken pipe") {
		t.Errorf("got %q, want a broken pipe", errs.String())
	}
}

// TestListToClosedPipe sees that a reader of a list may stop early without a word.
func TestListToClosedPipe(t *testing.T) {
	r := newRig(t, 0)
	r.push("app", "1", 1000)
	r.must("pull", "-q", r.host+"/app:1")
	for _, args := range [][]string{{"images"}, {"content", "ls", "-q"}, {"images", "--format", "json"}} {
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		cmd := r.command(args...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = out, &errs
		err = cmd.Run()
		if err == nil || errs.Len() > 0 {
			t.Errorf("%v: got %v and %q, want a status and no word", args, err, errs.String())
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
