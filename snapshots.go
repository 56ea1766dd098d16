package stowage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/snapshot/erofs"
	"github.com/stowage/stowage/internal/snapshot/native"
	"github.com/stowage/stowage/internal/snapshot/overlay"
	"github.com/stowage/stowage/internal/snapshot/proxy"
	"github.com/stowage/stowage/internal/unpack"
)

// UnpackLimits say what layers may cost and lack when they are unpacked. The zero value has the
// defaults.
type UnpackLimits struct {
	Size    int64 // bytes of one layer's files; 0: 1 TiB
	Entries int64 // of one layer; 0: 4,194,304
	Ratio   int64 // how many times as large as its blob a layer may be, once it is over 1 GiB; 0: 200
	// Losses is what happens when the filesystem or a user namespace cannot keep something of
	// a layer, such as an owner or an xattr: "refuse" fails, "report" goes on and says so.
	// Empty: report in a user namespace and for users other than root, refuse otherwise.
	Losses string
	// Filter says whether igzip decompresses gzip where it is on PATH: "always", "off", or
	// "auto", which is empty as well: with four processors or more. It takes less time for one
	// stream, and more work, since all bytes pass through pipes.
	Filter string
}

// filterFrom is the number of processors from which one can be spared for a filter: measured, two
// take 1.4 times the processor time of our own decoder, which is as fast.
const filterFrom = 4

// snapshotters lists the drivers, the best first.
var snapshotters = [...]string{"overlay", "erofs", "native"}

// A ProxySnapshotter is one that another program has, which speaks containerd's API.
type ProxySnapshotter struct {
	Address string // of its unix socket
	Name    string // that it has there; empty: the same as here
}

// proxyNamespace is the one that others know us by, whatever ours is.
const proxyNamespace = "stowage"

// checkProxies finds names that cannot be those of snapshotters.
func checkProxies(proxies map[string]ProxySnapshotter) error {
	for name, p := range proxies {
		switch {
		case metadata.SnapshotterName(name) != name, slices.Contains(snapshotters[:], name), name == "quarantine":
			return fmt.Errorf("snapshotter %s: the name is taken: %w", name, errdefs.ErrInvalidArgument)
		case !filepath.IsAbs(p.Address):
			return fmt.Errorf("snapshotter %s: address %q: want a path that begins with /: %w", name, p.Address, errdefs.ErrInvalidArgument)
		}
		if err := metadata.CheckSnapshotter(name); err != nil {
			return err
		}
	}
	return nil
}

// Snapshotters lists the names of those that there are, the best first, and then those of other
// programs.
func (s *Store) Snapshotters() []string {
	return slices.Concat(snapshotters[:], slices.Sorted(maps.Keys(s.proxies)))
}

// reportsLosses tells whether losses are listed rather than refused.
func (s *Store) reportsLosses() bool {
	if s.unpack.Losses != "" {
		return s.unpack.Losses == "report"
	}
	return os.Geteuid() != 0 || mount.InUserNamespace()
}

// snapshotterName resolves the names that containerd and others have for drivers.
func (s *Store) snapshotterName(name string) (string, error) {
	return metadata.SnapshotterName(name), s.CheckSnapshotter(name)
}

// CheckSnapshotter tells whether a store with these proxies has a snapshotter called name, or called so
// elsewhere; an empty one is the best that works. Errors: [errdefs.ErrInvalidArgument].
func CheckSnapshotter(name string, proxies map[string]ProxySnapshotter) error {
	is, there := metadata.SnapshotterName(name), (&Store{proxies: proxies}).Snapshotters()
	if is != "" && !slices.Contains(there, is) {
		return fmt.Errorf("snapshotter %q: want one of %s: %w", name, strings.Join(there, ", "), errdefs.ErrInvalidArgument)
	}
	return nil
}

// CheckSnapshotter is [CheckSnapshotter] for this store.
func (s *Store) CheckSnapshotter(name string) error { return CheckSnapshotter(name, s.proxies) }

// Snapshotter opens a snapshotter by name; an empty one is the best that works here.
func (s *Store) Snapshotter(name string) (*Snapshotter, error) {
	if err := s.owned("open snapshotter"); err != nil {
		return nil, err
	}
	name, err := s.snapshotterName(name)
	if err != nil {
		return nil, err
	}
	if name == "" {
		if name, err = s.snapshotterName(s.snapshotter); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != "" {
		return s.openSnapshotter(name)
	}
	if s.best == nil {
		var failed []error
		for _, name := range snapshotters {
			if s.best, err = s.openSnapshotter(name); err == nil {
				s.log.Debug("chose the snapshotter", "snapshotter", name)
				return s.best, nil
			}
			s.log.Debug("the snapshotter does not work here", "snapshotter", name, "reason", err)
			failed = append(failed, err)
		}
		return nil, errors.Join(failed...)
	}
	return s.best, nil
}

// openSnapshotter opens one of [Store.Snapshotters] once; s.mu is held.
func (s *Store) openSnapshotter(name string) (*Snapshotter, error) {
	if opened := s.opened[name]; opened != nil {
		return opened, nil
	}
	dir := filepath.Join(s.root, "snapshots", name)
	if err := makeFolder(dir, s.nosync); err != nil {
		return nil, fmt.Errorf("open snapshotter %s: %w", name, err)
	}
	var driver snapshot.Driver
	var err error
	switch name {
	case "overlay":
		driver, err = overlay.Open(dir)
		if errdefs.IsPermissionDenied(err) {
			s.log.Debug("layers are unpacked for overlay, and cannot be mounted by this user", "reason", err)
			driver, err = overlay.OpenUnmounted(dir)
		}
	case "erofs":
		driver, err = erofs.Open(dir, s.nosync)
	case "native":
		driver = native.New()
	default:
		p := s.proxies[name]
		driver, err = proxy.New(p.Address, proxy.Options{Name: cmp.Or(p.Name, name), Namespace: proxyNamespace, NoSync: s.nosync})
	}
	if err != nil {
		return nil, err
	}
	opened, err := snapshot.Open(name, dir, driver, s.meta, snapshot.Options{Namespace: s.ns, NoSync: s.nosync, Writing: s.mark.Write, Log: s.log})
	if err != nil {
		return nil, err
	}
	s.opened[name] = opened
	return opened, nil
}

// closeProxies ends the connections to other programs, of all views.
func (s *Store) closeProxies() (err error) {
	s.views.Lock()
	defer s.views.Unlock()
	for _, view := range s.views.of {
		view.mu.Lock()
		for _, sn := range view.opened {
			if c, ok := sn.Driver().(io.Closer); ok {
				err = errors.Join(err, c.Close())
			}
		}
		view.mu.Unlock()
	}
	return err
}

// unpacker gives what unpacks into a snapshotter. What killed runs have left there goes first.
func (s *Store) unpacker(name string) (*unpack.Unpacker, error) {
	sn, err := s.Snapshotter(name)
	if err != nil {
		return nil, err
	}
	if _, err := sn.Sweep(context.Background()); err != nil {
		return nil, fmt.Errorf("clean snapshotter %s: %w", sn.Name(), err)
	}
	u := s.extractor()
	u.Snapshots = sn
	return u, nil
}

// extractor is an unpacker without a snapshotter.
func (s *Store) extractor() *unpack.Unpacker {
	u := &unpack.Unpacker{Content: s.content, Meta: s.meta, Namespace: s.ns}
	u.Limits = layer.Limits{Size: s.unpack.Size, Entries: s.unpack.Entries}
	u.Ratio, u.Large = s.unpack.Ratio, s.large
	u.ReportLosses = s.reportsLosses()
	if s.unpack.Filter == "always" || s.unpack.Filter != "off" && runtime.GOMAXPROCS(0) >= filterFrom {
		u.Filter = layer.FindFilter()
	}
	return u
}

// An imageParts is one platform's image, ready to be unpacked.
type imageParts struct {
	unpack.Image
	name string
}

// choose picks the platform of an image that is to be unpacked or mounted, and reads what it
// is made of.
func (s *Store) choose(ctx context.Context, name string, platform *Platform) (*imageParts, error) {
	img, err := s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.chosen(ctx, img, platform)
}

// chosen is choose for an image that was looked up.
func (s *Store) chosen(ctx context.Context, img Image, platform *Platform) (*imageParts, error) {
	p, err := pick(img, platform)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	if p.State != Complete && p.State != Lazy {
		return nil, fmt.Errorf("image %s: %w", img.Name, &MissingError{Name: img.Name, Missing: p.Missing})
	}
	parts, err := s.parts(ctx, p.Manifest.Digest)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	return &imageParts{parts, img.Name}, nil
}

// parts reads what a manifest is made of.
func (s *Store) parts(ctx context.Context, manifest Digest) (unpack.Image, error) {
	b, err := content.ReadBlob(ctx, s.content, manifest, image.MaxDocument)
	if err != nil {
		return unpack.Image{}, err
	}
	doc, err := image.ParseDocument(b)
	if err != nil {
		return unpack.Image{}, err
	}
	if !doc.IsImage() {
		return unpack.Image{}, fmt.Errorf("manifest %s is of an artifact, which has no filesystem: %w", manifest, errdefs.ErrInvalidArgument)
	}
	if b, err = content.ReadBlob(ctx, s.content, doc.Config.Digest, image.MaxConfig); err != nil {
		return unpack.Image{}, fmt.Errorf("config %s: %w", doc.Config.Digest, err)
	}
	c, err := image.ParseConfig(b)
	if err != nil {
		return unpack.Image{}, fmt.Errorf("config %s: %w", doc.Config.Digest, err)
	}
	return unpack.ImageOf(manifest, doc, c)
}

// DiffSnapshot writes the layer that leads from the snapshot base to the snapshot key: an
// uncompressed tar, the same every time. An empty base is the parent of key.
func (s *Store) DiffSnapshot(ctx context.Context, w io.Writer, snapshotter, key, base string) (err error) {
	if s.peer != nil {
		if err := s.diffPeer(ctx, w, snapshotter, key, base); err != nil {
			return fmt.Errorf("diff snapshot %s: %w", key, err)
		}
		return nil
	}
	sn, err := s.Snapshotter(snapshotter)
	if err != nil {
		return err
	}
	row, err := sn.Stat(ctx, key)
	if err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	if base == "" {
		base = row.Parent
	}
	lower, err := sn.Tree(ctx, base)
	if err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	if lower != nil {
		defer func() { err = errors.Join(err, lower.Close()) }()
	}
	upper, err := sn.Tree(ctx, key)
	if err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	defer func() { err = errors.Join(err, upper.Close()) }()
	if err := layer.Diff(ctx, w, lower, upper); err != nil {
		return fmt.Errorf("diff snapshot %s: %w", key, err)
	}
	return nil
}
