// Package stowage keeps container images: it pulls them from registries into a store in a
// folder, unpacks and mounts them, lists, checks, exports and imports them.
//
// An image that a [Store] lists as complete can be mounted and exported: now, offline, and after a
// power cut.
// Several processes may use one folder at once.
//
//	store, err := stowage.Open("/var/lib/stowage", stowage.Options{})
//	...
//	defer store.Close()
//	res, err := store.Pull(ctx, "alpine", stowage.PullOptions{})
//
// Errors answer to the kinds of github.com/containerd/errdefs.
package stowage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/content/dir"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/mark"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
	"github.com/stowage/stowage/internal/transfer"
	"github.com/stowage/stowage/internal/vfs"
)

// Options tunes [Open]. The zero value is a durable store on the default namespace.
type Options struct {
	Namespace string // empty: default
	// NoSync leaves it to the kernel when bytes reach the disk. A power cut can then damage
	// the store; it is for machines that are thrown away.
	NoSync bool
	// Registry says how registries are reached.
	Registry RegistryOptions
	// Snapshotter is overlay, erofs or native, for operations that name none; empty: the best
	// that works on the store's filesystem.
	Snapshotter string
	// Proxies are snapshotters of other programs, by name. Unlike ours they are used only when they are named.
	Proxies map[string]ProxySnapshotter
	Unpack  UnpackLimits
	GC      GCOptions
	// Ended is told of every [Act] when it has ended, by several goroutines at once; nil: nobody is.
	Ended func(Act)
	// Quarantine is the folder where a repair by way of [Connect] puts the bytes of wrong blobs.
	Quarantine string
	// Log is told what operators should know; nil: nobody.
	Log *slog.Logger
	// Progress is told what [Open] verifies after the machine went down while the store was being
	// written to; and Context, if it is set, ends that.
	Progress ProgressSink
	Context  context.Context
}

// A Store is a folder with images. Goroutines may share it.
type Store struct {
	root    string
	nosync  bool
	ns      string
	db      kv.DB
	mark    *mark.Mark
	held    *stopwatch // the database
	meta    *metadata.Store
	content content.Store
	reg     *registry.Client
	// nameless is reg without the user name that was given; nil if none was.
	nameless *registry.Client
	log      *slog.Logger
	tell     func(Act) // see [Options]
	peer     *peer     // whose the content is; nil: it is in root

	snapshotter string
	proxies     map[string]ProxySnapshotter
	unpack      UnpackLimits
	gc          GCOptions
	large       chan struct{} // see [layer.DecompressOptions]

	mu     sync.Mutex
	opened map[string]*Snapshotter
	best   *Snapshotter
	views  *views
}

// views are those of one store that [Store.In] made.
type views struct {
	sync.Mutex
	of map[string]*Store
}

// Open opens the store in the folder root, which is made if it is not there. The caller closes
// it. A folder that cannot be written can still be read.
func Open(root string, o Options) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if err := checkProxies(o.Proxies); err != nil {
		return nil, err
	}
	if err := CheckSnapshotter(o.Snapshotter, o.Proxies); err != nil {
		return nil, err
	}
	switch o.Unpack.Losses {
	case "", "refuse", "report":
	default:
		return nil, fmt.Errorf("losses %q: want refuse or report: %w", o.Unpack.Losses, errdefs.ErrInvalidArgument)
	}
	switch o.Unpack.Filter {
	case "", "auto", "off", "always":
	default:
		return nil, fmt.Errorf("filter %q: want auto, off or always: %w", o.Unpack.Filter, errdefs.ErrInvalidArgument)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := makeFolder(filepath.Join(root, "metadata"), o.NoSync); err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	disk, err := vfs.OS(root)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	flushed := disk
	if o.NoSync {
		flushed = vfs.NoSync(disk)
	}
	written := mark.New(filepath.Join(root, "metadata", "mark"), flushed)
	if disk = written.Disk(disk); o.NoSync {
		disk = vfs.NoSync(disk)
	}
	blobs, err := dir.Open(disk)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	held := new(stopwatch)
	db, err := bolt.Open(filepath.Join(root, "metadata", "meta.db"), bolt.Options{NoSync: o.NoSync, Held: held.note})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	o.Registry.Log = o.Log
	s := &Store{
		root: root, nosync: o.NoSync, ns: o.Namespace, db: db, held: held, mark: written,
		meta:    metadata.New(db, filepath.Join(root, "metadata", "holders")).KeepNames(filepath.Join(root, "content", "names.log"), o.NoSync),
		content: blobs, reg: registry.New(o.Registry), log: o.Log, tell: o.Ended,
		snapshotter: o.Snapshotter, proxies: o.Proxies, unpack: o.Unpack, gc: o.GC, large: make(chan struct{}, 1), opened: map[string]*Snapshotter{},
	}
	s.views = &views{of: map[string]*Store{o.Namespace: s}}
	if o.Registry.Username != "" {
		o.Registry.Username, o.Registry.Password, o.Registry.UsernameFrom = "", "", ""
		s.nameless = registry.New(o.Registry)
	}
	if err := s.distrust(o); err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, errors.Join(err, db.Close()))
	}
	return s, nil
}

// complete gives what nothing was said of its default.
func (o *Options) complete() error {
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return metadata.CheckNamespace(o.Namespace)
}

// makeFolder makes a folder and those above it, and their names durable unless nosync. Others
// than its owner cannot list it.
func makeFolder(name string, nosync bool) error {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	above := filepath.Dir(name)
	if above != name {
		if err := makeFolder(above, nosync); err != nil {
			return err
		}
	}
	if err := os.Mkdir(name, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if nosync {
		return nil
	}
	d, err := os.Open(above)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close ends the use of the store.
func (s *Store) Close() error {
	s.reg.Close()
	if s.nameless != nil {
		s.nameless.Close()
	}
	if s.peer != nil {
		return s.disconnect()
	}
	s.writing()() // what wrote outside of any operation has ended
	return errors.Join(s.closeProxies(), s.db.Close())
}

// Root is the folder of the store. One that is connected has none but for what it needs while it is.
func (s *Store) Root() string { return s.root }

// Namespace is the one that the store was opened on.
func (s *Store) Namespace() string { return s.ns }

// place is the store as transfers see it.
func (s *Store) place() transfer.Store {
	p := transfer.Store{Content: s.content, Meta: s.meta, Namespace: s.ns}
	if s.peer == nil {
		p.Unpacker = s.unpacker
	}
	return p
}

// Compact gives the space that the metadata no longer needs back to the disk.
func (s *Store) Compact(ctx context.Context) error { return s.db.Compact(ctx) }

// digestOf reads a digest that a person typed: whole, or a unique prefix of one that is stored.
func (s *Store) digestOf(ctx context.Context, text string) (image.Digest, error) {
	if d := image.Digest(text); content.Validate(d) == nil {
		return d, nil
	}
	algorithm, hex, ok := ref.ParseDigestPrefix(text)
	if !ok {
		return "", fmt.Errorf("blob %q: not a digest, or the beginning of one: %w", text, errdefs.ErrInvalidArgument)
	}
	list, err := s.meta.EvictedByPrefix(ctx, s.ns, algorithm+":"+hex)
	if err != nil {
		return "", err
	}
	here, err := s.meta.BlobsByPrefix(ctx, s.ns, algorithm+":"+hex)
	if err != nil {
		return "", err
	}
	for _, b := range here {
		list = append(list, b.Digest)
	}
	switch len(list) {
	case 0:
		return "", fmt.Errorf("blob %s: %w", text, errdefs.ErrNotFound)
	case 1:
		return list[0], nil
	}
	return "", fmt.Errorf("blob %s: %d blobs begin so; give more digits: %w", text, len(list), errdefs.ErrInvalidArgument)
}
