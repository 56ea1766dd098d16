package stowage

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/mount"
	"github.com/stowage/stowage/internal/snapshot"
	"github.com/stowage/stowage/internal/transfer"
	"github.com/stowage/stowage/internal/unpack"
)

// The media types of layers that are written.
const (
	layerPlain = "application/vnd.oci.image.layer.v1.tar"
	layerGzip  = layerPlain + "+gzip"
	layerZstd  = layerPlain + "+zstd"
)

// ApplyLayer makes the changes of a layer in what mounts show, and returns the descriptor of its
// uncompressed tar. A blob that was evicted, or is lazy, is fetched first. An active snapshot that is
// committed by the name of the stack counts as unpacked by us. After an error some changes have been made.
func (s *Store) ApplyLayer(ctx context.Context, d Descriptor, mounts []Mount) (plain Descriptor, err error) {
	defer s.writing()()
	defer func() {
		if err != nil {
			err = fmt.Errorf("apply layer %s: %w", d.Digest, err)
		}
	}()
	hold, err := s.meta.Hold(ctx, s.ns, d.Digest)
	if err != nil {
		return plain, err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	sn, row, err := s.snapshotOf(ctx, mounts)
	if err != nil {
		return plain, err
	}
	u := s.extractor()
	u.Content = transfer.OnDemand(s.place(), s.reg, []Descriptor{d}, nil)
	var a unpack.Applied
	apply := func() (diffID digest.Digest, res layer.Result, err error) {
		root, err := mount.Open(mounts, s.root)
		if err != nil {
			return "", res, err
		}
		defer func() { err = errors.Join(err, root.Close()) }()
		a, err = u.Apply(ctx, d.Digest, func(ctx context.Context, plain io.Reader, o layer.Options) (layer.Result, error) {
			return layer.Apply(ctx, plain, mount.Path(root), o)
		})
		return a.DiffID, a.Result, err
	}
	if onlyUpper(mounts) {
		if sn == nil || row.Kind != Active || row.Parent != "" {
			return plain, fmt.Errorf("an upper folder alone, and not that of an active snapshot without a parent: %w", errdefs.ErrInvalidArgument)
		}
		r, ok := sn.Driver().(snapshot.Rebaser)
		if !ok {
			return plain, fmt.Errorf("snapshotter %s: %w", sn.Name(), errdefs.ErrNotImplemented)
		}
		apply = func() (diffID digest.Digest, res layer.Result, err error) {
			a, err = u.Apply(ctx, d.Digest, func(ctx context.Context, plain io.Reader, o layer.Options) (layer.Result, error) {
				return r.Receive(ctx, sn.Path(row.Folder), plain, o)
			})
			return a.DiffID, a.Result, err
		}
	}
	if sn != nil && row.Kind == Active {
		err = sn.Apply(ctx, row.Key, apply)
	} else {
		_, _, err = apply()
	}
	return Descriptor{MediaType: layerPlain, Digest: a.DiffID, Size: a.Length}, err
}

// onlyUpper tells whether mounts are an overlay of which nothing is said but where its changes go. They
// cannot be mounted. A client that applies layers side by side means by them a folder of a stack, which
// will stand on others when it is committed.
func onlyUpper(mounts []Mount) bool {
	return len(mounts) == 1 && mounts[0].Type == "overlay" && len(mounts[0].Dirs("upperdir")) == 1 && len(mounts[0].Dirs("lowerdir")) == 0
}

// snapshotOf finds the snapshot whose mounts these are; nil: none of this store and namespace.
func (s *Store) snapshotOf(ctx context.Context, mounts []Mount) (*Snapshotter, *Snapshot, error) {
	if len(mounts) != 1 {
		return nil, nil, nil
	}
	path := mounts[0].Source
	if dirs := append(mounts[0].Dirs("upperdir"), mounts[0].Dirs("lowerdir")...); len(dirs) > 0 {
		path = dirs[0]
	}
	rest, ours := strings.CutPrefix(path, filepath.Join(s.root, "snapshots")+"/")
	name, rest, _ := strings.Cut(rest, "/")
	folder, _, _ := strings.Cut(rest, "/")
	if !ours || !slices.Contains(snapshotters[:], name) {
		return nil, nil, nil
	}
	rows, err := s.meta.SnapshotsIn(ctx, s.ns, name, folder)
	if err != nil || len(rows) == 0 {
		return nil, nil, err
	}
	sn, err := s.Snapshotter(name)
	return sn, &rows[0], err
}

// LayerOptions tune [Store.StoreLayer].
type LayerOptions struct {
	MediaType string            // empty: of a tar in gzip
	Key       string            // of the ingest; empty: one of its own
	Labels    map[string]string // of the blob
	Lease     string            // that keeps the blob; empty: none does
	Latest    time.Time         // what changed later gets this time; zero: its own
}

// StoreLayer writes the layer that leads from what the mounts lower show to what upper shows, as a blob:
// the same bytes every time. No mounts are an empty tree. Errors: [errdefs.ErrNotImplemented] for other media
// types than those of layers that are a tar, in gzip, in zstd or plain.
func (s *Store) StoreLayer(ctx context.Context, lower, upper []Mount, o LayerOptions) (d Descriptor, err error) {
	defer s.writing()()
	defer func() {
		if err != nil {
			err = fmt.Errorf("store a layer: %w", err)
		}
	}()
	d.MediaType = cmp.Or(o.MediaType, layerGzip)
	if !slices.Contains([]string{layerPlain, layerGzip, layerZstd}, d.MediaType) {
		return d, fmt.Errorf("media type %q: %w", d.MediaType, errdefs.ErrNotImplemented)
	}
	below, err := s.treeOf(ctx, lower)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	above, err := s.treeOf(ctx, upper)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, above.Close()) }()
	in, err := s.content.Begin(ctx, cmp.Or(o.Key, "layer-"+rand.Text()), content.Want{Size: -1})
	if err != nil {
		return d, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Abort())
		}
	}()
	if err := in.Reset(); err != nil {
		return d, err
	}
	diffID, err := writeLayer(ctx, in, below, above, d.MediaType, o.Latest)
	if err != nil {
		return d, err
	}
	d.Digest, d.Size = in.Digest(), in.Offset()
	hold, err := s.meta.Hold(ctx, s.ns, d.Digest)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	if err := s.content.Commit(ctx, in); err != nil {
		return d, err
	}
	labels := map[string]string{uncompressedLabel: diffID.String()}
	for k, v := range o.Labels {
		labels[k] = v
	}
	_, err = s.meta.Apply(ctx, s.ns, metadata.Batch{Blobs: []metadata.Blob{{Digest: d.Digest, Size: d.Size, Labels: labels}}, Lease: o.Lease})
	return d, err
}

// treeOf reads what mounts show; without mounting it, if it is a snapshot of ours.
func (s *Store) treeOf(ctx context.Context, mounts []Mount) (layer.Tree, error) {
	if len(mounts) == 0 {
		return layer.Empty(), nil
	}
	sn, row, err := s.snapshotOf(ctx, mounts)
	if err != nil {
		return nil, err
	}
	if sn != nil {
		return sn.Tree(ctx, row.Key)
	}
	root, err := mount.Open(mounts, s.root)
	if err != nil {
		return nil, err
	}
	t, err := layer.OpenStack(layer.Whole, []string{mount.Path(root)})
	if err = errors.Join(err, root.Close()); err != nil && t != nil { // the tree has it open itself
		err = errors.Join(err, t.Close())
	}
	return t, err
}

// writeLayer writes a layer into an ingest, and tells its diffID.
func writeLayer(ctx context.Context, in content.Ingest, below, above layer.Tree, mediaType string, latest time.Time) (image.Digest, error) {
	out := bufio.NewWriterSize(&ingestWriter{in}, 1<<20)
	packed := io.WriteCloser(unpacked{out})
	var err error
	switch mediaType {
	case layerGzip:
		packed = gzip.NewWriter(out)
	case layerZstd:
		packed, err = zstd.NewWriter(out)
	}
	if err != nil {
		return "", err
	}
	plain := digest.SHA256.Digester()
	err = layer.DiffUntil(ctx, io.MultiWriter(packed, plain.Hash()), below, above, latest)
	return plain.Digest(), errors.Join(err, packed.Close(), out.Flush())
}

// unpacked is a writer that packs nothing.
type unpacked struct{ io.Writer }

func (unpacked) Close() error { return nil }

// An ingestWriter appends to an ingest.
type ingestWriter struct{ in content.Ingest }

func (w *ingestWriter) Write(p []byte) (int, error) { return w.in.WriteAt(p, w.in.Offset()) }
