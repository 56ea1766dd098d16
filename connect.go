package stowage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/containerd"
	"github.com/stowage/stowage/internal/gc"
	"github.com/stowage/stowage/internal/kv/mem"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/registry"
)

// A peer is what a store stands on that is another's: a containerd, or a daemon like it.
type peer struct {
	*containerd.Client
	address string
	options Options // that it was connected with
	scratch *scratch
}

// Connect opens what a containerd-compatible socket offers: a path, or unix:// and a path. What it
// knows of one namespace is read once, now. Acts work on the socket: blobs are written over its API,
// and names, labels and leases are written through. Everything that an act brings is under a lease
// until the act ends.
//
// Options.NoSync and Options.GC mean nothing here: both are the peer's business. Acts that need the
// files of a store are [errdefs.ErrFailedPrecondition]. Errors: [errdefs.ErrUnavailable] when nobody
// answers at address.
func Connect(address string, o Options) (*Store, error) {
	ctx := o.Context
	if ctx == nil {
		ctx = context.Background()
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	client, err := containerd.Dial(ctx, address, containerd.Options{Namespace: o.Namespace, Aside: o.Quarantine})
	if err != nil {
		return nil, err
	}
	s, err := connected(ctx, client, &peer{Client: client, address: address, options: o})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return s, nil
}

// connected makes the store of a peer.
func connected(ctx context.Context, client *containerd.Client, p *peer) (*Store, error) {
	o := p.options
	var err error
	if p.scratch, err = newScratch(); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", p.address, err)
	}
	o.Registry.Log = o.Log
	db := mem.New()
	s := &Store{
		root: p.scratch.dir, ns: o.Namespace, db: db, held: new(stopwatch), peer: p,
		meta: metadata.New(db, filepath.Join(p.scratch.dir, "holders")), content: client,
		reg: registry.New(o.Registry), log: o.Log, tell: o.Ended,
		snapshotter: o.Snapshotter, unpack: o.Unpack, large: make(chan struct{}, 1), opened: map[string]*Snapshotter{},
	}
	s.views = &views{of: map[string]*Store{o.Namespace: s}}
	if o.Registry.Username != "" {
		o.Registry.Username, o.Registry.Password, o.Registry.UsernameFrom = "", "", ""
		s.nameless = registry.New(o.Registry)
	}
	if err := client.Fill(ctx, s.meta); err != nil {
		return nil, errors.Join(err, p.scratch.close())
	}
	client.WriteThrough(s.meta)
	return s, nil
}

// again connects once more, and so reads what the peer knows by now.
func (s *Store) again(ctx context.Context) (*Store, error) {
	o := s.peer.options
	o.Context = ctx
	return Connect(s.peer.address, o)
}

// disconnect ends the use of a peer.
func (s *Store) disconnect() error {
	return errors.Join(s.peer.Close(), s.peer.scratch.close())
}

// owned refuses an act that is for stores in folders alone: it needs their files, or rows that a peer
// does not have.
func (s *Store) owned(act string) error {
	if s.peer == nil {
		return nil
	}
	return fmt.Errorf("%s: not by way of a socket, here %s: %w", act, s.peer.address, errdefs.ErrFailedPrecondition)
}

// prunePeer has the peer collect, in all of its namespaces: what goes is its decision, and what went of
// this namespace is found out afterwards.
func (s *Store) prunePeer(ctx context.Context, o PruneOptions) (*PruneReport, error) {
	report := gc.NewReport()
	if o.DryRun {
		return &report, s.owned("find what a collection would take")
	}
	before, err := s.peer.Holdings(ctx)
	if err == nil {
		err = s.peer.Collect(ctx)
	}
	var after containerd.Holdings
	if err == nil {
		after, err = s.peer.Holdings(ctx)
	}
	if err != nil {
		return &report, err
	}
	for _, d := range slices.Sorted(maps.Keys(before.Blobs)) {
		if _, stayed := after.Blobs[d]; !stayed {
			report.Blobs = append(report.Blobs, metadata.Garbage{Digest: d, Size: before.Blobs[d]})
			report.Bytes += before.Blobs[d]
		}
	}
	for _, ref := range before.Snapshots {
		if !slices.Contains(after.Snapshots, ref) {
			report.Snapshots = append(report.Snapshots, gc.Snapshot{Namespace: s.ns, Snapshotter: ref.Snapshotter, Key: ref.Key})
		}
	}
	return &report, nil
}

// readPeer is [Store.readDisk] for a peer, as its records have it.
func (s *Store) readPeer(ctx context.Context) (*disk, error) {
	d := &disk{blobs: map[Digest]int64{}, folders: map[metadata.SnapshotFolder]int64{}, rest: map[string]int64{}}
	blobs, err := s.meta.Blobs(ctx, s.ns)
	if err != nil {
		return nil, err
	}
	for _, b := range blobs {
		d.blobs[b.Digest] = b.Size
	}
	names, err := s.meta.Snapshotters(ctx, s.ns)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		rows, err := s.meta.Snapshots(ctx, s.ns, name)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			d.folders[metadata.SnapshotFolder{Snapshotter: name, Folder: row.Folder}] = row.Size
		}
	}
	ingests, err := s.content.Ingests(ctx)
	for _, in := range ingests {
		d.rest[restIngests] += in.Offset
	}
	return d, err
}

// examinePeer is [Store.Doctor] for a peer. Each look is at what the peer says by then, so that a
// finding is repaired when the peer no longer gives rise to it.
func (s *Store) examinePeer(ctx context.Context, o DoctorOptions, look func(context.Context, *Store) ([]Finding, error)) (all []Finding, err error) {
	known := map[string]int{}
	id := func(f Finding) string { return f.Kind + " " + f.Subject }
	for at := s; ; {
		found, err := look(ctx, at)
		if err == nil {
			var loose []Finding
			loose, err = at.unlinked(ctx, o.Repair)
			found = append(found, loose...)
		}
		left, fresh := map[string]Finding{}, false
		for _, f := range found {
			if _, ok := known[id(f)]; !ok {
				known[id(f)], fresh = len(all), true
				all = append(all, f)
			}
			left[id(f)] = f
		}
		if at != s {
			err = errors.Join(err, at.Close())
		}
		if err != nil {
			return all, err
		}
		if !o.Repair || !fresh {
			for i := range all {
				if f, ok := left[id(all[i])]; ok {
					all[i] = f
				}
				_, ok := left[id(all[i])]
				all[i].Repaired = !ok
			}
			return all, nil
		}
		if at, err = s.again(ctx); err != nil {
			return all, err
		}
	}
}

// unlinked finds what the peer's collection would take away although images need it.
func (s *Store) unlinked(ctx context.Context, repair bool) (found []Finding, err error) {
	images, err := s.meta.Images(ctx, s.ns)
	if err != nil {
		return nil, err
	}
	met := map[containerd.Unlinked]bool{}
	for _, img := range images {
		list, err := s.peer.Unlinked(ctx, s.meta, img.Target.Digest)
		if err != nil {
			return found, err
		}
		for _, u := range list {
			if met[u] {
				continue
			}
			met[u] = true
			f := Finding{
				Kind: "unlinked-blob", Subject: u.Child.String(),
				Detail: fmt.Sprintf("the daemon's collection does not know that %s needs it, of %s", u.Parent, img.Name),
				Repair: "label what needs it",
			}
			if repair {
				if err := s.peer.Link(ctx, u); err != nil {
					f.Repair += "; that failed: " + err.Error()
				}
			}
			found = append(found, f)
		}
	}
	return found, nil
}
