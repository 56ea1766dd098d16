package erofs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/layer"
	"github.com/stowage/stowage/internal/layer/tarstream"
)

// WriteLayer keeps the layer that r streams, uncompressed, in the folder dir, which holds none yet.
// It reads r to its end, beyond that of the tar, so that a digest of what was read is the diffID;
// the same bytes are the first ones of the file that [Devices] names. Of the options the limits
// and the policy of losses count. The result has no needs.
//
// After an error the folder holds what is of no use. Errors: [errdefs.ErrInvalidArgument] for what
// is no layer, [errdefs.ErrResourceExhausted] beyond the limits or what an image can have, a
// [layer.LossError] where losses are refused, those of r, and those of the filesystem. WriteLayer
// waits for r, also when ctx ends: whoever cancels sees to it that r returns.
func WriteLayer(ctx context.Context, r io.Reader, dir string, o layer.Options) (layer.Result, error) {
	result, err := writeLayer(ctx, r, dir, o)
	if err != nil {
		return layer.Result{}, fmt.Errorf("keep layer for erofs: %w", err)
	}
	return result, nil
}

func writeLayer(ctx context.Context, r io.Reader, dir string, o layer.Options) (result layer.Result, err error) {
	data, err := create(filepath.Join(dir, dataFile))
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	entries, err := create(filepath.Join(dir, entriesFile))
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, entries.Close()) }()
	records, err := newRecordWriter(entries)
	if err != nil {
		return result, err
	}
	k := &keeper{
		tee:     tee{ctx: ctx, src: r, dst: data},
		tail:    tail{dir: dir, from: data},
		records: records,
		meter:   layer.Meter{Limits: o.Limits},
		losses:  layer.Losses{Report: o.ReportLosses},
		chunks:  maxLayerChunks,
	}
	k.tar = tarstream.NewReader(&k.tee)
	defer func() { err = errors.Join(err, k.tail.close()) }()
	if err := k.keep(); err != nil {
		if k.tee.failed != nil { // told as an error of reading
			err = k.tee.failed
		}
		return result, err
	}
	k.result.Entries = k.meter.Entries
	k.result.Losses = k.losses.List()
	return k.result, nil
}

// A keeper is one call of [WriteLayer].
type keeper struct {
	tar     *tarstream.Reader
	tee     tee
	tail    tail
	records *recordWriter
	meter   layer.Meter
	losses  layer.Losses
	chunks  int64 // that files with holes may still have
	result  layer.Result
}

func (k *keeper) keep() error {
	for {
		e, err := k.tar.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = k.entry(e)
		}
		if err != nil {
			return err
		}
	}
	if err := k.tar.Drain(); err != nil {
		return err
	}
	size := layerSize{tar: k.tee.size}
	size.blocks = max(1, size.tail()+k.tail.blocks) // nothing is no device
	if size.blocks > maxBlocks {
		return fmt.Errorf("more than %d blocks of data: %w", maxBlocks, errdefs.ErrResourceExhausted)
	}
	if err := k.tail.move(k.tee.dst, size); err != nil {
		return err
	}
	return k.records.close(size)
}

// kinds of records for types of entries.
var kinds = map[byte]byte{
	tarstream.TypeReg:     kindFile,
	tarstream.TypeLink:    kindLink,
	tarstream.TypeSymlink: kindSymlink,
	tarstream.TypeChar:    kindChar,
	tarstream.TypeBlock:   kindBlock,
	tarstream.TypeDir:     kindDir,
	tarstream.TypeFifo:    kindFifo,
}

// entry keeps one entry.
func (k *keeper) entry(e *tarstream.Entry) error {
	if err := k.meter.Count(e); err != nil {
		return err
	}
	op, path, target, err := layer.Meaning(e)
	if err != nil {
		return err
	}
	if path == "." {
		path = ""
	}
	r := record{}
	r.dir, r.name = splitPath(path)
	switch op {
	case layer.Put:
		return k.put(e, path, target, &r)
	case layer.Hide:
		r.kind = kindWhiteout
	case layer.HideAll:
		r.kind, r.dir, r.name = kindOpaque, path, ""
		k.result.Opaque = k.result.Opaque || path == ""
	case layer.Nothing:
		return nil
	}
	return k.records.write(&r)
}

// put keeps an entry that something is made for.
func (k *keeper) put(e *tarstream.Entry, path, target string, r *record) error {
	losses, made := layer.Unkept(e, path)
	for _, loss := range losses {
		k.losses.Note(k.meter.Entries, loss)
	}
	if !made {
		return nil
	}
	r.kind, r.target = kinds[e.Type], target
	if r.kind == kindLink {
		return k.records.write(r)
	}
	k.result.Inodes++
	k.result.Root = k.result.Root || path == ""
	r.mode, r.uid, r.gid = e.Mode, e.UID, e.GID
	r.sec, r.nsec = e.ModTime.Unix(), uint32(e.ModTime.Nanosecond())
	r.major, r.minor = e.Major, e.Minor
	if err := k.xattrs(e, path, r); err != nil {
		return err
	}
	switch r.kind {
	case kindFile:
		content, err := k.content(e)
		if err != nil {
			return err
		}
		for _, run := range content {
			k.result.Size += run.Length
		}
		r.size = e.Size
		if r.chunkBits, r.extents, err = k.place(e, content); err != nil {
			return fmt.Errorf("entry %q: %w", path, err)
		}
	case kindSymlink:
		r.target, r.mode = e.Linkname, 0o777 // as all links have in Linux
	}
	return k.records.write(r)
}

// xattrs keeps those of an entry that an image can have.
func (k *keeper) xattrs(e *tarstream.Entry, path string, r *record) error {
	var kept []byte
	for _, x := range e.Xattrs {
		if !layer.Keeps(x.Name) {
			continue // it is listed already
		}
		why := refusedXattr(r.kind, x)
		if why == "" {
			var keep bool
			if r.mode, keep = layer.AfterXattr(r.mode, x); !keep {
				continue
			}
			with := appendXattr(kept, x.Name, x.Value)
			if _, ok := checkXattrs(string(with)); ok {
				kept = with
				continue
			}
			why = "too many of them"
		}
		name := x.Name[:min(len(x.Name), maxName)]
		loss := layer.Loss{Kind: layer.LostXattr, Path: path, Detail: name + ": " + why, Count: 1}
		if err := k.losses.Add(k.meter.Entries, loss); err != nil {
			return err
		}
	}
	r.xattrs = string(kept)
	return nil
}

// content gives what of a file is not a hole. It reads files that are large enough to have zeros
// that count.
func (k *keeper) content(e *tarstream.Entry) ([]tarstream.Run, error) {
	large := false
	for _, run := range e.Data {
		large = large || run.Length >= holeSize
	}
	if !large {
		return e.Data, nil
	}
	var z zeroFinder
	var chunk []byte
	for _, run := range e.Data {
		z.begin(run.Offset)
		for left := run.Length; left > 0; {
			if len(chunk) == 0 {
				var err error
				if chunk, err = k.tar.Chunk(); err != nil {
					return nil, err
				}
			}
			n := min(left, int64(len(chunk)))
			z.write(chunk[:n])
			chunk = chunk[n:]
			left -= n
		}
		z.end()
	}
	return z.content, nil
}

// A tee writes to dst what is read from it.
type tee struct {
	ctx    context.Context
	src    io.Reader
	dst    *os.File
	size   int64 // so far
	failed error // that of writing
}

// minRead is what is read at least, so that a source of small pieces does not make small writes.
const minRead = 64 << 10

func (t *tee) Read(p []byte) (int, error) {
	if err := t.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := io.ReadAtLeast(t.src, p, min(minRead, len(p)))
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	if _, failed := t.dst.Write(p[:n]); failed != nil {
		t.failed = failed
		return 0, failed
	}
	t.size += int64(n)
	return n, err
}
