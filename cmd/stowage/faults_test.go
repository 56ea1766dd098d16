package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// A faulty rig is a rig whose registry can be spoilt, and mended again.
type faultyRig struct {
	*rig
	registry http.Handler

	mu    sync.Mutex
	proxy *registrytest.Proxy
}

func newFaultyRig(t *testing.T) *faultyRig {
	t.Helper()
	reg, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Errorf("close the registry: %v", err)
		}
	})
	f := &faultyRig{registry: reg.Handler, proxy: registrytest.Wrap(reg.Handler)}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		proxy := f.proxy
		f.mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	f.rig = newRoot(t, strings.TrimPrefix(front.URL, "http://"))
	return f
}

// newRoot is a rig with a store and the command alone; host is put before names.
func newRoot(t *testing.T, host string) *rig {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "stowage") // the test binary under this name is the command
	if err := os.Symlink(self, bin); err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, bin: bin, root: filepath.Join(dir, "store"), host: host}
}

// spoil puts faults before the registry in place of those that stood there; none mends it.
func (f *faultyRig) spoil(faults ...registrytest.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proxy = registrytest.Wrap(f.registry, faults...)
}

func (f *faultyRig) requests() []registrytest.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.proxy.Requests()
}

// fails runs a command that must fail with a status, and with one line of error that fits want.
func (r *rig) fails(status int, want string, args ...string) {
	r.t.Helper()
	_, errs, got := r.run(args...)
	r.failed(got, status, errs, want, args...)
}

// goisms are words that no user should have to read.
var goisms = regexp.MustCompile(`%!|<nil>|panic|goroutine|EOF|context |\*[a-z]+\.|0x[0-9a-f]{6}|errdefs|runtime error|Go |json: (cannot|unsupported)|: .*: (invalid argument|data loss|unavailable)$`)

// failed checks how a command failed: its status, and an error of one line, with a hint at most,
// that says nothing twice.
func (r *rig) failed(got, status int, errs, want string, args ...string) {
	r.t.Helper()
	command := "stowage " + strings.Join(args, " ")
	if got != status {
		r.t.Errorf("%s: exit status %d, want %d: %s", command, got, status, errs)
		return
	}
	lines := strings.Split(strings.TrimSuffix(errs, "\n"), "\n")
	line, hints := lines[0], lines[1:]
	if len(hints) > 1 || len(hints) == 1 && !strings.HasPrefix(hints[0], "hint: ") {
		r.t.Errorf("%s: got %q, want one line and at most a hint", command, errs)
	}
	r.t.Logf("%s", errs)
	cause, ok := strings.CutPrefix(line, "stowage: ")
	if !ok || !regexp.MustCompile(want).MatchString(cause) {
		r.t.Errorf("%s: got %q, want %q", command, line, want)
	}
	parts := strings.Split(cause, ": ")
	for i, part := range parts {
		if slices.Contains(parts[:i], part) {
			r.t.Errorf("%s: %q stands twice in %q", command, part, line)
		}
	}
	if bad := goisms.FindString(cause); bad != "" {
		r.t.Errorf("%s: %q in %q is not for users", command, bad, line)
	}
}

// named checks which names the store has.
func (r *rig) named(want ...string) {
	r.t.Helper()
	if got := strings.Fields(r.must("images", "-q")); !slices.Equal(got, want) {
		r.t.Errorf("images are %q, want %q", got, want)
	}
}

// both lets two faults happen to the same requests.
func both(outer, inner registrytest.Fault) registrytest.Fault {
	return func(next http.Handler) http.Handler { return outer(inner(next)) }
}

// TestSpoiltRegistry has the registry do wrong in every way. A pull that cannot bear it names
// nothing, and the next one, from a registry that does well, completes the image.
func TestSpoiltRegistry(t *testing.T) {
	t.Parallel()
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, imagetest.Seeded(1, 400_000), imagetest.Seeded(2, 90_000))}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	m := img.Manifest()
	layer, config := "/blobs/"+m.Layers[0].Digest.String(), "/blobs/"+m.Config.Digest.String()
	const manifest, get, any = "/manifests/", http.MethodGet, ""
	on, always := registrytest.On, func(f registrytest.Fault) registrytest.Fault { return f }
	once := func(f registrytest.Fault) registrytest.Fault { return registrytest.Times(1, f) }
	twice := func(f registrytest.Fault) registrytest.Fault { return registrytest.Times(2, f) }
	ofLayer := "^pull HOST/app:1: fetch layer " + m.Layers[0].Digest.String() + ": "
	for _, tt := range []struct {
		name   string
		fault  registrytest.Fault
		status int    // 0: it is borne
		want   string // pattern of the error; HOST is the registry
	}{
		{"wrong bytes of a layer", on(get, layer, registrytest.WrongBytes()), 4, ofLayer + ".* hash to sha256:[0-9a-f]+$"},
		{"wrong bytes of a config", on(get, config, registrytest.WrongBytes()), 4, "fetch config .* hash to sha256:[0-9a-f]+$"},
		{"wrong bytes of a manifest", on(get, manifest, registrytest.WrongBytes()), 4, "^pull HOST/app:1: HOST: manifest .* hash to sha256:[0-9a-f]+$"},
		{"short body once", on(get, layer, once(registrytest.Short(1000))), 0, ""},
		{"short body always", on(get, layer, both(registrytest.IgnoreRange(), registrytest.Short(1000))), 5, ofLayer},
		{"cut off once", on(get, layer, once(registrytest.Cut(100_000))), 0, ""},
		{"cut off always", on(get, layer, both(registrytest.IgnoreRange(), registrytest.Cut(1000))), 5, ofLayer},
		{"no range", both(registrytest.IgnoreRange(), on(get, layer, once(registrytest.Cut(100_000)))), 0, ""},
		{"wrong range", both(on(get, layer, registrytest.WrongRange("bytes 7-9/10")), on(get, layer, once(registrytest.Cut(1000)))), 4, ofLayer},
		{"long body", on(get, layer, registrytest.Longer("more", true)), 4, ofLayer + "HOST has more than the [0-9]+ bytes"},
		{"long body of no length", on(get, layer, registrytest.Longer("more", false)), 4, ofLayer + "HOST has more than the [0-9]+ bytes"},
		{"redirects in a circle", on(any, manifest, registrytest.Redirect("{path}")), 5, "redirects in a circle$"},
		{"redirects without end", on(get, layer, registrytest.Redirect("{path}x")), 5, "more than 10 redirects$"},
		{"401", always(registrytest.Status(401)), 5, "^pull HOST/app:1: HOST answered 401 Unauthorized"},
		{"403", always(registrytest.Status(403)), 5, "^pull HOST/app:1: HOST answered 403 Forbidden"},
		{"404", on(any, manifest, registrytest.Status(404)), 3, "^pull HOST/app:1: HOST answered 404 Not Found for manifest 1 of app$"},
		{"404 of a layer", on(any, layer, registrytest.Status(404)), 3, ofLayer + "HOST answered 404 Not Found"},
		{"429 for a moment", on(get, layer, once(registrytest.TooMany("1"))), 0, ""},
		{"429 for hours", on(any, manifest, registrytest.TooMany("7200")), 5, "answered 429 Too Many Requests"},
		{"500 for a moment", on(any, manifest, twice(registrytest.Status(500))), 0, ""},
		{"503 of a layer for a moment", on(any, layer, twice(registrytest.Status(503))), 0, ""},
		{"503 always", always(registrytest.Status(503)), 5, "answered 503 Service Unavailable"},
		{"501 always", on(get, layer, registrytest.Status(501)), 5, ofLayer + "HOST answered 501 Not Implemented"},
		{"a message of many lines", on(any, manifest, registrytest.Answer(404, nil, `{"errors":[{"code":"X","message":"no\nsuch\u001b[31m\nthing"}]}`)), 3, `404 Not Found for manifest 1 of app(: no such .*thing)?$`},
		{"a web page", always(registrytest.WebPage()), 5, "answered with a web page"},
		{"a web page for a layer", on(get, layer, registrytest.WebPage()), 5, ofLayer + "HOST answered with a web page"},
		{"words for a manifest", on(any, manifest, registrytest.Answer(200, nil, "these are words")), 1, "^pull HOST/app:1: .* not JSON: "},
		{"a manifest that is a list", on(any, manifest, registrytest.Answer(200, nil, "[]")), 1, "^pull HOST/app:1: .*: it is not an object: array$"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFaultyRig(t)
			if err := imagetest.Push(t.Context(), f.host, "app", "1", img); err != nil {
				t.Fatal(err)
			}
			name := f.host + "/app:1"
			f.spoil(tt.fault)
			if tt.status == 0 {
				f.must("pull", "-q", name)
			} else {
				f.fails(tt.status, strings.ReplaceAll(tt.want, "HOST", regexp.QuoteMeta(f.host)), "pull", "-q", name)
				f.named()
			}
			f.spoil()
			f.must("pull", "-q", name)
			f.named(name)
			f.must("image", "check", "--verify")
		})
	}
}

// TestPullGoesOnAfterFault sees that the bytes of a layer that came before a failure are not
// fetched again.
func TestPullGoesOnAfterFault(t *testing.T) {
	t.Parallel()
	f := newFaultyRig(t)
	img := f.push("app", "1", 4<<20, 50_000)
	name := f.host + "/app:1"
	layer := "/blobs/" + img.Manifest().Layers[0].Digest.String()
	f.spoil(registrytest.On(http.MethodGet, layer, registrytest.First(registrytest.Cut(1<<20), registrytest.Status(401))))
	f.fails(5, "answered 401 Unauthorized", "pull", "-q", name)
	f.named()
	f.spoil()
	f.must("pull", "-q", name)
	f.must("image", "check", "--verify")
	var got []string
	for _, r := range f.requests() {
		// The failure may have called off the other blobs, before any of their bytes came.
		if strings.HasSuffix(r.Path, layer) {
			got = append(got, r.Path+" "+r.Range)
		}
	}
	if want := []string{"/v2/app" + layer + " bytes=1048576-"}; !slices.Equal(got, want) {
		t.Errorf("the second pull asked for %q, want %q", got, want)
	}
}

// mirrored writes a hosts.toml by which reg.example is asked for at hosts, the last being the registry
// itself, and returns the flag that names its folder.
func mirrored(t *testing.T, hosts ...string) string {
	t.Helper()
	dir := t.TempDir()
	last := len(hosts) - 1
	text := fmt.Sprintf("server = \"http://%s\"\n", hosts[last])
	for _, host := range hosts[:last] {
		text += fmt.Sprintf("[host.\"http://%s\"]\ndial_timeout = \"2s\"\n", host)
	}
	if err := os.Mkdir(filepath.Join(dir, "reg.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "reg.example", "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return "--hosts-dir=" + dir
}

// A registry that drops every connection after a MiB costs connections, and no bytes.
func TestEveryConnectionBreaks(t *testing.T) {
	t.Parallel()
	f := newFaultyRig(t)
	img := f.push("app", "1", 80<<20) // of which half remains when it is packed: enough to be fetched in parts
	layer := img.Manifest().Layers[0]
	at := "/blobs/" + layer.Digest.String()
	f.spoil(registrytest.On(http.MethodGet, at, registrytest.Cut(1<<20)))
	f.must("pull", "-q", f.host+"/app:1")
	f.must("image", "check", "--verify")
	asked := 0
	for _, r := range f.requests() {
		if strings.HasSuffix(r.Path, at) {
			asked++
		}
	}
	if least, most := int(layer.Size>>20), int(layer.Size*11/10>>20); asked < least || asked > most {
		t.Errorf("%d bytes came in %d requests of a MiB, want from %d to %d", layer.Size, asked, least, most)
	}
}

// TestKilledPullGoesOnElsewhere kills a pull in the middle of a layer. The next process goes on at
// another mirror, and asks it only for what is missing.
func TestKilledPullGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	first, second := newFaultyRig(t), newFaultyRig(t)
	const size = 44 << 20 // of which half remains when it is packed
	img := first.push("app", "1", size, 1<<20)
	second.push("app", "1", size, 1<<20)
	second.spoil() // forgets the requests
	large, small := img.Manifest().Layers[0], img.Manifest().Layers[1]
	first.spoil(registrytest.On(http.MethodGet, "/blobs/"+large.Digest.String(), registrytest.Stall(20<<20)))
	const name = "reg.example/app:1"

	cmd := first.command("pull", "-q", mirrored(t, first.host, second.host), name)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Until all has come of the small layer, and what comes of the large one; and a moment more, in
	// which that is noted.
	for begun, stood := time.Now(), 0; stood < 5; time.Sleep(10 * time.Millisecond) {
		var came int64
		files, err := filepath.Glob(filepath.Join(first.root, "content", "ingest", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				came += info.Size()
			}
		}
		if came >= 20<<20+small.Size {
			stood++
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("%d bytes came in a minute", came)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if n := len(second.requests()); n > 0 {
		t.Errorf("the second host was asked %d times before the first one failed", n)
	}

	first.must("pull", "-q", mirrored(t, second.host, first.host), name)
	first.named(name)
	first.must("image", "check", "--verify")
	for _, r := range second.requests() {
		var from int64
		if strings.HasSuffix(r.Path, small.Digest.String()) {
			t.Errorf("the small layer was fetched again: %s %s", r.Method, r.Path)
		}
		if !strings.HasSuffix(r.Path, large.Digest.String()) {
			continue
		}
		// A killed process loses what came since the last checkpoint, 4 MiB at most.
		if _, err := fmt.Sscanf(r.Range, "bytes=%d-", &from); err != nil || from < 16<<20 || from > 20<<20 {
			t.Errorf("%s %s was asked for with range %q, want one from 16 to 20 MiB on", r.Method, r.Path, r.Range)
		}
	}
	if n := len(first.requests()); n == 0 || first.requests()[n-1].Range != "" {
		t.Errorf("the first host was asked again: %v", first.requests())
	}
}

// TestMirrorWithWrongBytes has a mirror in front of a registry give wrong bytes for a layer and
// a config: they are thrown away with what was unpacked of them, the user is told, and the registry is asked.
func TestMirrorWithWrongBytes(t *testing.T) {
	t.Parallel()
	mirror, upstream := newFaultyRig(t), newFaultyRig(t)
	img := mirror.push("app", "1", 3<<20, 50_000)
	upstream.push("app", "1", 3<<20, 50_000)
	upstream.spoil() // forgets the requests
	layer, config := "/blobs/"+img.Manifest().Layers[0].Digest.String(), "/blobs/"+img.Manifest().Config.Digest.String()
	spoilt := []registrytest.Fault{registrytest.On(http.MethodGet, layer, registrytest.WrongBytes()), registrytest.On(http.MethodGet, config, registrytest.WrongBytes())}
	mirror.spoil(spoilt...)
	flag := mirrored(t, mirror.host, upstream.host)
	for _, unpack := range []string{"--no-unpack", "--no-unpack=false"} {
		t.Run(unpack, func(t *testing.T) {
			r := newRoot(t, "")
			_, errs, status := r.run("pull", "--progress", "json", unpack, flag, "reg.example/app:1")
			if status != 0 {
				t.Fatalf("status %d: %s", status, errs)
			}
			if !regexp.MustCompile(`"retrying".*` + regexp.QuoteMeta(mirror.host) + ` gave wrong bytes`).MatchString(errs) {
				t.Errorf("nothing tells that the mirror is wrong:\n%s", errs)
			}
			r.must("image", "check", "--verify")
		})
	}
	if n := len(upstream.requests()); n != 4 {
		t.Errorf("the registry was asked %d times, want for the layer and the config, by each pull", n)
	}
	upstream.spoil(spoilt...)
	newRoot(t, "").fails(4, "gave wrong bytes: .* hash to ", "pull", "-q", flag, "reg.example/app:1")
}

// TestSilentMirror has a mirror in front of a registry take requests and never answer. All of the
// pull waits for it once.
func TestSilentMirror(t *testing.T) {
	t.Parallel()
	mirror, upstream := newFaultyRig(t), newFaultyRig(t)
	upstream.push("app", "1", 10_000, 20_000, 30_000, 40_000, 50_000)
	mirror.spoil(registrytest.Hang())
	upstream.must("pull", "-q", mirrored(t, mirror.host, upstream.host), "reg.example/app:1")
	if n := len(mirror.requests()); n != 1 {
		t.Errorf("the mirror was asked %d times, want once", n)
	}
}

// TestRetryAfter sees that a registry is left alone for as long as it asks.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	f := newFaultyRig(t)
	f.push("app", "1", 10_000)
	f.spoil(registrytest.Times(1, registrytest.TooMany("2")))
	begun := time.Now()
	f.must("pull", "-q", f.host+"/app:1")
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("the next request came after %v, want 2s or more", took)
	}
}

// TestHugeManifest has the registry send a manifest without end, with and without saying so. It
// is refused without being read.
func TestHugeManifest(t *testing.T) {
	t.Parallel()
	for _, announced := range []bool{true, false} {
		f := newFaultyRig(t)
		f.spoil(registrytest.Huge("application/vnd.oci.image.manifest.v1+json", 1<<30, announced))
		f.fails(1, "manifest 1 of app has at least [0-9]+ bytes where at most 4194304 are read$", "pull", "-q", f.host+"/app:1")
		f.named()
	}
}

// TestHugeManifestMemory looks at the command while it would tell of a manifest of 1 GiB, and
// cannot: what it had to take to get there was little.
func TestHugeManifestMemory(t *testing.T) {
	t.Parallel()
	f := newFaultyRig(t)
	sent := make(chan int64, 1)
	count := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := &counter{ResponseWriter: w}
			next.ServeHTTP(c, r)
			if r.Method == http.MethodGet {
				sent <- c.n
			}
		})
	}
	f.spoil(count, registrytest.Huge("application/vnd.oci.image.manifest.v1+json", 1<<30, false))
	ours, full, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }() // it was only read
	const capacity = 4096               // the least that a pipe has
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, full.Fd(), syscall.F_SETPIPE_SZ, capacity); errno != 0 {
		t.Fatal(errno)
	}
	if _, err := full.Write(make([]byte, capacity)); err != nil {
		t.Fatal(err)
	}
	cmd := f.command("pull", "-q", f.host+"/app:1")
	cmd.Stderr = full
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := full.Close(); err != nil {
		t.Fatal(err)
	}
	if n := <-sent; n > 64<<20 {
		t.Errorf("the registry got rid of %d bytes, want no more than buffers take", n)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	// What wait tells is no use: it counts what the test itself had when it forked.
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var peak int
	if _, err := fmt.Sscan(rest, &peak); err != nil || peak > 100<<10 { // KiB
		t.Errorf("the pull took %d KiB of memory (%v), want less than 100 MiB", peak, err)
	}
	if _, err := io.Copy(io.Discard, ours); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // its status is compared below
	if got := cmd.ProcessState.ExitCode(); got != 1 {
		t.Errorf("exit status %d, want 1", got)
	}
}

// A counter counts the bytes of an answer.
type counter struct {
	http.ResponseWriter
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// TestHostileIndex pulls indexes that have no end.
func TestHostileIndex(t *testing.T) {
	t.Parallel()
	leaf, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, imagetest.Seeded(1, 1000))}.Build("")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("it contains itself", func(t *testing.T) {
		t.Parallel()
		f := newFaultyRig(t)
		img := imagetest.Index(leaf)
		if err := imagetest.Push(t.Context(), f.host, "app", "1", img); err != nil {
			t.Fatal(err)
		}
		root, _ := img.Blob(img.Root.Digest)
		body, err := root.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		f.spoil(registrytest.On("", "/manifests/"+leaf.Root.Digest.String(),
			registrytest.Answer(200, http.Header{"Content-Type": {root.MediaType}}, string(body))))
		f.fails(4, leaf.Root.Digest.String(), "pull", "-q", f.host+"/app:1")
		f.named()
		f.spoil()
		f.must("pull", "-q", f.host+"/app:1")
	})
	t.Run("it is nested too deep", func(t *testing.T) {
		t.Parallel()
		f := newFaultyRig(t)
		img := leaf
		for range 40 {
			img = imagetest.Index(img)
		}
		if err := imagetest.Push(t.Context(), f.host, "app", "1", img); err != nil {
			t.Fatal(err)
		}
		f.fails(1, "^pull "+f.host+"/app:1: .*nested", "pull", "-q", f.host+"/app:1")
		f.named()
	})
}

// TestInterruptedHang presses Ctrl-C while a registry is silent, wherever it is so.
func TestInterruptedHang(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"/manifests/", "/blobs/"} {
		t.Run(strings.Trim(at, "/"), func(t *testing.T) {
			t.Parallel()
			f := newFaultyRig(t)
			f.push("app", "1", 10_000)
			reached := make(chan struct{})
			var once sync.Once
			tell := func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					once.Do(func() { close(reached) })
					next.ServeHTTP(w, r)
				})
			}
			f.spoil(registrytest.On("", at, tell), registrytest.On("", at, registrytest.Hang()))
			args := []string{"pull", "-q", f.host + "/app:1"}
			cmd := f.command(args...)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-reached
			begun := time.Now()
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // its status is compared below
			if took := time.Since(begun); took > 3*time.Second {
				t.Errorf("it ended %v after the interrupt, want at once", took)
			}
			f.failed(cmd.ProcessState.ExitCode(), 130, errs.String(), "^pull "+f.host+"/app:1: ", args...)
			f.named()
			f.spoil()
			f.must("pull", "-q", f.host+"/app:1")
		})
	}
}

// TestUnreachable pulls from where there is no registry.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(http.NotFoundHandler())
	host := strings.TrimPrefix(closed.URL, "http://")
	closed.Close()
	r := newRoot(t, host)
	r.fails(5, "^pull "+host+"/app:1: "+host+": manifest 1 of app: connection refused$", "pull", "-q", host+"/app:1")
	r.fails(5, "^pull registry.invalid/app:1: registry.invalid: manifest 1 of app: (there is no such host|its address cannot be looked up)$",
		"pull", "-q", "registry.invalid/app:1")
	r.named()
}
