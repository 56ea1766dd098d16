package stowage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/doctor"
	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/transfer"
)

// DoctorOptions tunes [Store.Doctor]. The zero value looks, reads no blob whole, and changes nothing.
type DoctorOptions struct {
	Verify bool  // read every blob and every unpacked tree
	Repair bool  // mend what is found
	Rate   int64 // bytes that Verify reads in a second; 0: no limit
	// From are places that blobs are fetched from, before those where they came from: archives,
	// folders of OCI layouts, registries (HOST) and repositories of them (HOST/NAME).
	From     []string
	Progress ProgressSink
}

// A DoctorReport is what [Store.Doctor] found.
type DoctorReport struct {
	Snapshotters []SnapshotterState
	Findings     []Finding
}

// A SnapshotterState says whether a snapshotter works here.
type SnapshotterState struct {
	Name    string
	Default bool   // used when none is named
	Reason  string // why it does not work; empty: it does
}

// Doctor finds out which snapshotters work on the store's filesystem, and what in the store, in
// all of its namespaces, is not as it should be; if that is asked for, it mends it. It may run
// beside anything else. See [doctor.Run].
//
// When it is interrupted, the report has what was found so far.
func (s *Store) Doctor(ctx context.Context, o DoctorOptions) (*DoctorReport, error) {
	defer s.writing()()
	began := time.Now()
	from, err := s.origins(o.From)
	if err != nil {
		return nil, err
	}
	look := func(ctx context.Context, s *Store) ([]Finding, error) {
		return doctor.Run(ctx, doctor.Exam{
			Root: s.root, Namespace: s.ns, Content: s.content, Meta: s.meta,
			Snapshotters: s.allSnapshotters, Rebuild: s.rebuild, Unpack: s.unpackAgain, Plain: s.extractor().Plain,
			Refetch: func(ctx context.Context, want []Descriptor) (map[Digest]error, error) {
				return s.refetch(ctx, want, from, o.Progress)
			},
			Options: doctor.Options{Verify: o.Verify, Repair: o.Repair, Rate: o.Rate, Grace: max(s.grace(), 1), Progress: o.Progress},
		})
	}
	report := &DoctorReport{Findings: []Finding{}}
	if s.peer != nil {
		found, err := s.examinePeer(ctx, o, look)
		report.Findings = append(report.Findings, found...)
		return report, err
	}
	best, bestErr := s.Snapshotter("")
	for _, name := range s.Snapshotters() {
		state := SnapshotterState{Name: name, Default: bestErr == nil && name == best.Name()}
		if _, err := s.Snapshotter(name); err != nil {
			state.Reason = err.Error()
		}
		report.Snapshotters = append(report.Snapshotters, state)
	}
	found, err := look(ctx, s)
	report.Findings = append(report.Findings, found...)
	s.ended(began, Act{Kind: ExamineAct, Err: err, Findings: report.Findings})
	return report, err
}

// allSnapshotters opens those that have folders here, in each namespace.
func (s *Store) allSnapshotters(ctx context.Context) (list []*snapshot.Store, err error) {
	if s.peer != nil {
		return nil, nil // their folders are the peer's
	}
	namespaces, err := s.meta.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(namespaces, func(n metadata.Namespace) bool { return n.Name == s.ns }) {
		namespaces = append(namespaces, metadata.Namespace{Name: s.ns})
	}
	for _, name := range s.Snapshotters() {
		if _, err := os.Stat(filepath.Join(s.root, "snapshots", name)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, n := range namespaces {
			sn, err := s.in(n.Name).Snapshotter(name)
			if err != nil {
				s.log.Warn("the trees of a snapshotter cannot be examined", "snapshotter", name, "reason", err)
				break
			}
			list = append(list, sn)
		}
	}
	return list, nil
}

// unpackAgain unpacks the layers of a manifest that are not there.
func (s *Store) unpackAgain(ctx context.Context, snapshotter, ns string, manifest Digest) (err error) {
	t := s.in(ns)
	parts, err := t.parts(ctx, manifest)
	if err != nil {
		return err
	}
	hold, err := t.meta.Hold(ctx, ns, append(parts.Digests(), manifest)...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	return t.ensureUnpacked(ctx, snapshotter, &imageParts{parts, manifest.String()}, nil)
}

// An origin is a place that blobs may be had from: an endpoint, or a registry in which they are
// in repositories of the same names as where they came from.
type origin struct {
	transfer.Endpoint
	registry string
}

// origins reads what people type.
func (s *Store) origins(list []string) (found []origin, err error) {
	for _, text := range list {
		var o origin
		info, err := os.Stat(text)
		switch {
		case err == nil && info.IsDir():
			o.Endpoint = transfer.Endpoint{Transport: transfer.LayoutTransport, Path: text}
		case err == nil:
			o.Endpoint = transfer.Endpoint{Transport: transfer.ArchiveTransport, Path: text}
		case strings.HasPrefix(text, "/") || strings.HasPrefix(text, "."):
			return nil, fmt.Errorf("fetch from %s: %w", text, err)
		case strings.Contains(text, "/"):
			if o.Endpoint, err = transfer.ParseEndpoint("docker://" + text); err != nil {
				return nil, err
			}
		default:
			if _, err := transfer.ParseEndpoint("docker://" + text + "/x"); err != nil {
				return nil, fmt.Errorf("fetch from %s: it is no file, folder or registry: %w", text, errdefs.ErrInvalidArgument)
			}
			o.registry = text
		}
		found = append(found, o)
	}
	return found, nil
}

// refetch brings blobs that were lost.
func (s *Store) refetch(ctx context.Context, want []Descriptor, from []origin, sink ProgressSink) (map[Digest]error, error) {
	o := transfer.RefetchOptions{Progress: sink}
	for _, f := range from {
		if f.registry == "" {
			o.From = append(o.From, f.Endpoint)
			continue
		}
		mirrored, err := s.mirrored(ctx, f.registry, want)
		if err != nil {
			return nil, err
		}
		o.From = append(o.From, mirrored...)
	}
	_, err := transfer.Refetch(ctx, s.place(), s.reg, want, o)
	var partly *transfer.LostError
	if !errors.As(err, &partly) {
		return nil, err
	}
	lost := map[Digest]error{}
	for _, l := range partly.Lost {
		lost[l.Digest] = errors.New("nothing says where it came from")
		if len(l.Tried) > 0 {
			lost[l.Digest] = errors.Join(l.Tried...)
		}
	}
	return lost, nil
}

// mirrored lists the repositories of a registry that are called as those where blobs came from.
func (s *Store) mirrored(ctx context.Context, registry string, want []Descriptor) (list []transfer.Endpoint, err error) {
	for _, d := range want {
		sources, err := s.meta.Sources(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		var names []string
		for _, r := range sources.From {
			names = append(names, r.Name)
		}
		for _, img := range sources.Images {
			if r, err := ref.Parse(img); err == nil {
				names = append(names, r.Repository())
			}
		}
		for _, name := range names {
			e, err := transfer.ParseEndpoint("docker://" + registry + "/" + name)
			if err == nil && !slices.Contains(list, e) {
				list = append(list, e)
			}
		}
	}
	return list, nil
}

// rebuild makes a new database, of the blobs and the journal of names, and moves the old one
// aside, and the folders of snapshots, which no row names any more. Stopped at any moment, it leaves the old one, or none, which counts as damaged as well.
func (s *Store) rebuild(ctx context.Context) (err error) {
	// One at a time, and no collection meanwhile.
	block, err := s.meta.BlockRounds(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, block.Close()) }()
	if err := s.meta.Probe(ctx); !errdefs.IsDataLoss(err) {
		return err // another has just done it
	}
	folder := filepath.Join(s.root, "metadata")
	old, fresh := filepath.Join(folder, "meta.db"), filepath.Join(folder, "rebuilt.db")
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(fresh, bolt.Options{NoSync: true}) // it is flushed once, at the end
	if err != nil {
		return err
	}
	names, err := s.meta.Rebuild(ctx, db, s.content)
	if err = errors.Join(err, db.Close(), os.Remove(fresh+".lock")); err != nil {
		return err
	}
	if err := s.flush(fresh); err != nil {
		return err
	}
	// Until there is a database again nobody sweeps.
	for _, name := range s.Snapshotters() {
		if err := snapshot.SetAllAside(name, filepath.Join(s.root, "snapshots", name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	aside := old + "." + time.Now().UTC().Format("20060102T150405")
	if err := os.Rename(old, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, old); err != nil {
		return err
	}
	s.log.Warn("a new database was made", "names", names, "old", aside)
	return s.flush(folder)
}

// flush makes a file or the names in a folder durable.
func (s *Store) flush(name string) error {
	if s.nosync {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
