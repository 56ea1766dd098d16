package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/leases"
	transferarchive "github.com/containerd/containerd/v2/core/transfer/archive"
	transferimage "github.com/containerd/containerd/v2/core/transfer/image"
	transferregistry "github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/imagetest"
)

var (
	soakTime = flag.Duration("soak", 10*time.Second, "how long the soak goes on")
	soakLife = flag.Duration("soak-life", 4*time.Second, "how long a daemon lives in it")
)

const (
	soakClients = 32
	soakImages  = 6 // those of an odd number have the layers of the one before, compressed in another way
)

// TestSoak has many clients, each with names of its own for a few images that all of them share, pull,
// push, import, export, remove, collect and change their minds, through containerd's API, CRI and
// commands, while the daemon is killed and started again. Whatever a client was told is there is there:
// it can be exported at any time, and verifies at the end, when nothing of the rest is left over.
func TestSoak(t *testing.T) {
	r := newRig(t, 0)
	k := newSoak(t, r)
	temporary := filepath.Join(filepath.Dir(r.root), "tmp")
	if err := os.Mkdir(temporary, 0o700); err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(settings, []byte("[gc]\nschedule = '500ms'\n[doctor]\nschedule = '2s'\n[server]\ngrace = '1s'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() *served {
		cmd := r.command("serve", "--config", settings, "--address", k.address, "--metrics", "unix:"+k.address+"m")
		cmd.Env = append(cmd.Env, "TMPDIR="+temporary)
		return r.await(k.address, cmd)
	}
	d := start()
	fresh := d.gauges()

	var clients sync.WaitGroup
	defer clients.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), *soakTime)
	defer cancel()
	for i := range soakClients {
		clients.Go(func() { k.client(ctx, i) })
	}
	for n := 0; ; n++ {
		select {
		case <-time.After(*soakLife):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		if n%3 == 2 {
			if status := d.stop(syscall.SIGTERM); status != 0 {
				t.Errorf("a daemon ended with status %d:\n%s", status, d.log)
			}
		} else {
			d.stop(syscall.SIGKILL)
		}
		k.check(d)
		d = start()
	}
	clients.Wait()
	r.end() // the connections to it that are idle would be kept for a while

	// The last daemon has lived through work as well: it has nothing left of it.
	k.cleanUp()
	for wait := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		after := d.gauges()
		if after.goroutines <= fresh.goroutines+2 && after.heap <= fresh.heap+(16<<20) && after.requests <= 1 {
			t.Logf("goroutines %d, then %d; heap %d, then %d bytes", fresh.goroutines, after.goroutines, fresh.heap, after.heap)
			break
		}
		if time.Since(wait) > time.Minute {
			t.Errorf("goroutines %d, then %d; heap %d, then %d bytes; %d requests under way\n%s",
				fresh.goroutines, after.goroutines, fresh.heap, after.heap, after.requests, d.get("/debug/pprof/goroutine?debug=1"))
			break
		}
	}
	k.verify()
	if status := d.stop(syscall.SIGTERM); status != 0 {
		t.Errorf("the last daemon ended with status %d:\n%s", status, d.log)
	}
	k.check(d)
	if left := mounted(t, filepath.Dir(r.root)); len(left) > 0 {
		t.Errorf("mounts that are left:\n%s", strings.Join(left, ""))
	}
	k.report()
}

// A soak is what its clients have in common.
type soak struct {
	t        *testing.T
	rig      *rig
	address  string
	archives [soakClients][]byte // one for each client, with one of its names

	mu     sync.Mutex
	told   map[soakName]bool // what is there, as its client was told
	leases map[soakName]bool // that could not be taken away
	did    map[string]int    // acts, by kind and outcome
}

// soakNamespaces are those of the clients with an even and with an odd number.
var soakNamespaces = []string{"k8s.io", "default"}

// A soakName is a name in a namespace.
type soakName struct{ namespace, name string }

func newSoak(t *testing.T, r *rig) *soak {
	t.Helper()
	k := &soak{t: t, rig: r, address: r.socket(), told: map[soakName]bool{}, leases: map[soakName]bool{}, did: map[string]int{}}
	scratch, err := stowage.Open(filepath.Join(t.TempDir(), "scratch"), stowage.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := scratch.Close(); err != nil {
			t.Error(err)
		}
	}()
	for i := range soakImages {
		seed := uint64(i / 2 * 10)
		how := []imagetest.Compression{imagetest.Gzip, imagetest.Zstd}[i%2]
		tars := []imagetest.Tar{imagetest.Seeded(99, 30_000), imagetest.Seeded(seed, 400_000), imagetest.Seeded(seed+1, 2_000)}
		img, err := imagetest.Spec{Layers: imagetest.Layers(how, tars...)}.Build("")
		if err != nil {
			t.Fatal(err)
		}
		for c := range soakClients {
			if err := imagetest.Push(t.Context(), r.host, fmt.Sprintf("app%d", i), "c"+strconv.Itoa(c), img); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := scratch.Pull(t.Context(), k.name(i, 0), stowage.PullOptions{UnpackOptions: stowage.UnpackOptions{NoUnpack: true}}); err != nil {
			t.Fatal(err)
		}
	}
	for c := range soakClients {
		name := k.name(c%soakImages, c)
		if err := scratch.Tag(t.Context(), k.name(c%soakImages, 0), name, true); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := scratch.Export(t.Context(), &b, []string{name}, stowage.ExportOptions{}); err != nil {
			t.Fatal(err)
		}
		k.archives[c] = b.Bytes()
	}
	return k
}

// name is that of an image for a client.
func (k *soak) name(image, client int) string {
	return fmt.Sprintf("%s/app%d:c%d", k.rig.host, image, client)
}

// client does one thing after the other until ctx ends.
func (k *soak) client(ctx context.Context, i int) {
	rnd := rand.New(rand.NewPCG(uint64(i), 6))
	namespace := soakNamespaces[i%2]
	api, err := client.New(k.address, client.WithDefaultNamespace(namespace), client.WithDialOpts([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), soon,
	}))
	if err != nil {
		k.t.Errorf("client %d: %v", i, err)
		return
	}
	defer func() {
		if err := api.Close(); err != nil {
			k.t.Error(err)
		}
	}()
	for ctx.Err() == nil {
		a := soaked{soak: k, api: api, rnd: rnd, id: soakName{namespace, k.name(rnd.IntN(soakImages), i)}, client: i}
		if err := a.act(namespaces.WithNamespace(ctx, namespace)); err != nil && !errdefs.IsCanceled(err) {
			time.Sleep(20 * time.Millisecond) // the daemon may be away
		}
	}
}

// A soaked is one act of a client.
type soaked struct {
	*soak
	api    *client.Client
	rnd    *rand.Rand
	id     soakName
	client int
}

func (a *soaked) act(ctx context.Context) error {
	acts := []struct {
		name   string
		weight int
		do     func(context.Context) error
		there  bool // when it is done, the image is
		needs  bool // the image must be there
	}{
		{"pull by a client", 4, a.pullByClient, true, false},
		{"pull by transfer", 8, a.pullByTransfer, true, false},
		{"pull by CRI", 4, a.pullByCRI, true, false},
		{"pull by the command with --address", 1, a.command("pull", "-q", "--address", a.address, a.id.name), true, false},
		{"pull by the command with --root", 1, a.command("pull", "-q", "--root", a.rig.root, a.id.name), true, false},
		{"import by a client", 2, a.importByClient, true, false},
		{"import by transfer", 2, a.importByTransfer, true, false},
		{"export by a client", 4, a.exportByClient, true, true},
		{"export by transfer", 4, a.exportByTransfer, true, true},
		{"push by transfer", 3, a.pushByTransfer, true, true},
		{"push by the command with --root", 1, a.command("push", "--root", a.rig.root, a.id.name, a.id.name), true, true},
		{"remove", 6, a.remove(), false, false},
		{"remove and collect", 2, a.remove(images.SynchronousDelete()), false, false},
		{"collect", 2, a.collect, false, false},
	}
	total := 0
	for _, act := range acts {
		total += act.weight
	}
	at := a.rnd.IntN(total)
	i := 0
	for ; at >= acts[i].weight; i++ {
		at -= acts[i].weight
	}
	chosen := acts[i]
	was := a.tells(a.id)
	switch {
	case chosen.needs && !was:
		return nil
	case strings.HasPrefix(chosen.name, "import"):
		a.id.name = a.name(a.client%soakImages, a.client) // the one in its archive
		was = a.tells(a.id)
	case chosen.name == "pull by CRI" && a.id.namespace != "k8s.io":
		return nil
	}
	if chosen.name == "import by a client" && a.client >= len(soakNamespaces) {
		// Containerd's client writes the lists of every archive under the same keys, so that it goes on
		// with what another one had begun: one client a namespace has one archive.
		return nil
	}
	if a.rnd.IntN(4) == 0 { // it changes its mind
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(a.rnd.IntN(300))*time.Millisecond)
		defer cancel()
	}
	if strings.HasPrefix(chosen.name, "remove") {
		a.tell(a.id, false) // whatever comes of it
	}
	err := chosen.do(ctx)
	outcome := "done"
	switch {
	case err == nil && chosen.there:
		a.tell(a.id, true)
	case err == nil:
	case ctx.Err() != nil, strings.Contains(err.Error(), context.DeadlineExceeded.Error()), status.Code(err) == codes.DeadlineExceeded:
		outcome = "cancelled"
	default:
		outcome = excuse(err)
		if outcome == "" {
			a.t.Errorf("client %d: %s %s in %s, which was there: %t: %v", a.client, chosen.name, a.id.name, a.id.namespace, was, err)
			outcome = "wrong"
		}
	}
	a.mu.Lock()
	a.did[chosen.name+": "+outcome]++
	a.mu.Unlock()
	return err
}

// excuse is why something may fail while daemons come and go; empty: there is none.
func excuse(err error) string {
	for _, away := range []string{"connect: connection refused", "connect: no such file or directory", ": EOF", "broken pipe", "connection reset by peer"} {
		if strings.Contains(err.Error(), away) {
			return "the daemon was away"
		}
	}
	return ""
}

func (k *soak) tells(id soakName) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.told[id]
}

func (k *soak) tell(id soakName, there bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if there {
		k.told[id] = true
	} else {
		delete(k.told, id)
	}
}

// leased runs do under a lease of its own, which is taken away at the end of the soak at the latest.
func (a *soaked) leased(ctx context.Context, do func(context.Context) error) (err error) {
	l := leases.Lease{ID: fmt.Sprintf("soak-%d-%d", a.client, a.rnd.Uint64())}
	if _, err = a.api.LeasesService().Create(ctx, leases.WithID(l.ID), leases.WithExpiration(time.Hour)); err == nil {
		err = do(leases.WithLease(ctx, l.ID))
	}
	if deleteErr := a.api.LeasesService().Delete(context.WithoutCancel(ctx), l); deleteErr != nil && !errdefs.IsNotFound(deleteErr) {
		a.mu.Lock()
		a.leases[soakName{a.id.namespace, l.ID}] = true
		a.mu.Unlock()
	}
	return err
}

func (a *soaked) pullByClient(ctx context.Context) error {
	return a.leased(ctx, func(ctx context.Context) error {
		_, err := a.api.Pull(ctx, a.id.name, client.WithPlatform(platforms.DefaultString()))
		return err
	})
}

func (a *soaked) pullByTransfer(ctx context.Context) error {
	from, err := transferregistry.NewOCIRegistry(ctx, a.id.name)
	if err != nil {
		return err
	}
	var o []transferimage.StoreOpt
	if a.rnd.IntN(2) == 0 {
		o = append(o, transferimage.WithUnpack(platforms.DefaultSpec(), "overlayfs"))
	}
	return a.transfer(ctx, from, transferimage.NewStore(a.id.name, o...))
}

// transfer is under a lease of ours: the client's own would stay for a day if the daemon is killed.
func (a *soaked) transfer(ctx context.Context, from, to any) error {
	return a.leased(ctx, func(ctx context.Context) error { return a.api.Transfer(ctx, from, to) })
}

func (a *soaked) pullByCRI(ctx context.Context) error {
	_, err := runtime.NewImageServiceClient(a.api.Conn().(grpc.ClientConnInterface)).PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: a.id.name}})
	return err
}

func (a *soaked) importByClient(ctx context.Context) error {
	return a.leased(ctx, func(ctx context.Context) error {
		_, err := a.api.Import(ctx, bytes.NewReader(a.archives[a.client]))
		return err
	})
}

func (a *soaked) importByTransfer(ctx context.Context) error {
	return a.transfer(ctx, transferarchive.NewImageImportStream(bytes.NewReader(a.archives[a.client]), ""), transferimage.NewStore("", transferimage.WithNamedPrefix(a.rig.host, true)))
}

func (a *soaked) exportByClient(ctx context.Context) error {
	return a.api.Export(ctx, io.Discard, archive.WithImage(a.api.ImageService(), a.id.name))
}

func (a *soaked) exportByTransfer(ctx context.Context) error {
	w := &discardCloser{}
	return a.transfer(ctx, transferimage.NewStore(a.id.name), transferarchive.NewImageExportStream(w, ""))
}

type discardCloser struct{}

func (discardCloser) Write(p []byte) (int, error) { return len(p), nil }
func (discardCloser) Close() error                { return nil }

func (a *soaked) pushByTransfer(ctx context.Context) error {
	to, err := transferregistry.NewOCIRegistry(ctx, a.id.name)
	if err != nil {
		return err
	}
	return a.transfer(ctx, transferimage.NewStore(a.id.name), to)
}

func (a *soaked) remove(o ...images.DeleteOpt) func(context.Context) error {
	return func(ctx context.Context) error {
		err := a.api.ImageService().Delete(ctx, a.id.name, o...)
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
}

// collect has a lease taken away, which waits for a collection.
func (a *soaked) collect(ctx context.Context) error {
	return a.leased(ctx, func(ctx context.Context) error {
		id, _ := leases.FromContext(ctx)
		return a.api.LeasesService().Delete(ctx, leases.Lease{ID: id}, leases.SynchronousDelete)
	})
}

// command runs stowage, and interrupts it when ctx ends.
func (a *soaked) command(args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, a.rig.bin, append([]string{"-n", a.id.namespace}, args...)...)
		cmd.Env = append(os.Environ(), "STOWAGE_CONFIG=/dev/null")
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}

// cleanUp takes away the leases that killed daemons could not, and what was begun and not ended: the
// daemon would keep it for a day, so that whoever began it can go on.
func (k *soak) cleanUp() {
	k.t.Helper()
	ctx := k.t.Context()
	store, err := stowage.Open(k.rig.root, stowage.Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			k.t.Error(err)
		}
	}()
	for _, ns := range soakNamespaces {
		view, err := store.In(ns)
		if err != nil {
			k.t.Fatal(err)
		}
		list, err := view.Leases(ctx)
		if err != nil {
			k.t.Fatal(err)
		}
		for _, l := range list {
			// A command with --address whose daemon went away could not take its lease away either.
			if !k.leases[soakName{ns, l.ID}] && !strings.HasPrefix(l.ID, "stowage-") {
				k.t.Errorf("lease %s is left in %s: %+v", l.ID, ns, l)
			}
			if err := view.DeleteLease(ctx, l.ID); err != nil {
				k.t.Error(err)
			}
		}
	}
	if _, err := store.Prune(ctx, stowage.PruneOptions{All: true}); err != nil {
		k.t.Error(err)
	}
	if left, err := store.Ingests(ctx); err != nil || len(left) > 0 {
		k.t.Errorf("ingests that are left: %+v, %v", left, err)
	}
}

// verify reads every image that a client was told is there.
func (k *soak) verify() {
	k.t.Helper()
	if len(k.told) == 0 {
		k.t.Error("no image is there in the end")
	}
	for _, ns := range soakNamespaces {
		var names []string
		for id := range k.told {
			if id.namespace == ns {
				names = append(names, id.name)
			}
		}
		if len(names) > 0 {
			if out, errs, status := k.rig.run(append([]string{"-n", ns, "image", "check", "--verify"}, names...)...); status != 0 {
				k.t.Errorf("check in %s: status %d: %s%s", ns, status, out, errs)
			}
		}
	}
	if out, errs, status := k.rig.run("doctor", "--verify"); status != 0 {
		k.t.Errorf("doctor: status %d: %s%s", status, out, errs)
	}
}

// check looks through the log of a daemon that has ended.
func (k *soak) check(d *served) {
	k.t.Helper()
	for line := range strings.Lines(d.log.String()) {
		if strings.Contains(line, "kind=orphan-blob") || strings.Contains(line, "kind=stale-ingest") {
			continue // what a killed daemon left, until it is collected
		}
		for _, bad := range []string{"panic", "code=Internal", "code=DataLoss", "not as it should be", "level=ERROR"} {
			if strings.Contains(line, bad) {
				k.t.Errorf("the log of a daemon: %s", line)
			}
		}
	}
}

func (k *soak) report() {
	for _, what := range slices.Sorted(maps.Keys(k.did)) {
		k.t.Logf("%5d %s", k.did[what], what)
	}
	k.t.Logf("%5d images are there in the end", len(k.told))
}

// gauges are what a daemon says of itself.
type gauges struct{ goroutines, heap, requests int }

func (s *served) gauges() gauges {
	s.rig.t.Helper()
	s.get("/debug/pprof/heap?gc=1&debug=1") // collects
	text := s.get("/metrics")
	read := func(name string) int {
		m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(text)
		if m == nil {
			s.rig.t.Fatalf("no %s in the metrics", name)
		}
		f, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			s.rig.t.Fatal(err)
		}
		return int(f)
	}
	return gauges{read("go_goroutines"), read("go_memstats_heap_alloc_bytes"), read("stowage_requests_in_flight")}
}

// mounted lists the mounts on folders below dir, or of them.
func mounted(t *testing.T, dir string) (found []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, dir) {
			found = append(found, line)
		}
	}
	return found
}
