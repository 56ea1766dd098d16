package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage/internal/content"
)

// Info implements [content.Store]. A record whose bytes are gone is [errdefs.ErrNotFound]: containerd
// itself does not look.
func (c *Client) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	r, err := c.open(ctx, d, 1)
	if err != nil {
		return content.Info{}, fmt.Errorf("look up blob %s: %w", d, err)
	}
	return r.info, nil
}

// record is what the peer's records say of a blob.
func (c *Client) record(ctx context.Context, d digest.Digest) (content.Info, error) {
	if err := content.Validate(d); err != nil {
		return content.Info{}, err
	}
	r, err := c.blobs.Info(ctx, &contentapi.InfoRequest{Digest: d.String()})
	if err != nil {
		return content.Info{}, native(err)
	}
	return infoOf(r.Info), nil
}

func infoOf(i *contentapi.Info) content.Info {
	return content.Info{Digest: digest.Digest(i.GetDigest()), Size: i.GetSize(), CreatedAt: i.GetCreatedAt().AsTime(), Settled: true}
}

// timeOr is a time that the peer says, or another where it says none.
func timeOr(t *timestamppb.Timestamp, other time.Time) time.Time {
	if t == nil || t.AsTime().IsZero() {
		return other
	}
	return t.AsTime()
}

// firstRead is how much of a blob is read when it is opened: all of what manifests and configs mostly
// are, so that they take no further request.
const firstRead = 64 << 10

// Open implements [content.Store]. Of a blob that is deleted while it is read, no more than its first
// 64 KiB can be counted on.
func (c *Client) Open(ctx context.Context, d digest.Digest) (content.Reader, error) {
	r, err := c.open(ctx, d, firstRead)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	return r, nil
}

// open reads at most first bytes.
func (c *Client) open(ctx context.Context, d digest.Digest, first int64) (*reader, error) {
	info, err := c.record(ctx, d)
	if err != nil {
		return nil, err
	}
	return c.openRecord(ctx, info, first)
}

// openRecord is open for a blob whose record was read.
func (c *Client) openRecord(ctx context.Context, info content.Info, first int64) (r *reader, err error) {
	r = &reader{c: c, d: info.Digest, info: info}
	if r.first, err = r.read(ctx, make([]byte, min(first, info.Size)), 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return r, nil
}

// A reader asks for each range of bytes by itself.
type reader struct {
	c     *Client
	d     digest.Digest
	info  content.Info
	first []byte
}

func (r *reader) Size() int64  { return r.info.Size }
func (r *reader) Close() error { return nil }

// ReadAt implements [io.ReaderAt].
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off >= 0 && off+int64(len(p)) <= int64(len(r.first)) || r.info.Size == int64(len(r.first)) {
		return bytes.NewReader(r.first).ReadAt(p, off)
	}
	if off < 0 {
		return 0, fmt.Errorf("read blob %s at %d: %w", r.d, off, errdefs.ErrOutOfRange)
	}
	got, err := r.read(context.Background(), p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("read blob %s: %w", r.d, err)
	}
	return len(got), err
}

// read fills p with what is at off, and returns what of it there was; less than all with [io.EOF].
func (r *reader) read(ctx context.Context, p []byte, off int64) ([]byte, error) {
	if off >= r.info.Size && r.info.Size > 0 {
		return nil, io.EOF
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Size 0 would be all that there is.
	s, err := r.c.blobs.Read(ctx, &contentapi.ReadContentRequest{Digest: r.d.String(), Offset: off, Size: max(int64(len(p)), 1)})
	if err != nil {
		return nil, native(err)
	}
	n := 0
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return p[:n], native(err)
		}
		if len(m.Data) > len(p)-n {
			return p[:n], fmt.Errorf("more bytes came than were asked for: %w", errdefs.ErrDataLoss)
		}
		n += copy(p[n:], m.Data)
	}
	if n < len(p) {
		return p[:n], io.EOF
	}
	return p, nil
}

// Delete implements [content.Store]: the namespace no longer knows the blob. Its bytes go when the
// peer collects, if no other namespace knows it.
func (c *Client) Delete(ctx context.Context, d digest.Digest) error {
	err := content.Validate(d)
	if err == nil {
		_, err = c.blobs.Delete(ctx, &contentapi.DeleteContentRequest{Digest: d.String()})
		err = native(err)
	}
	if err != nil {
		return fmt.Errorf("delete blob %s: %w", d, err)
	}
	return nil
}

// Quarantine implements [content.Store]. The bytes are copied into a folder of this machine, and the
// peer collects, so that it will take the blob anew. While another namespace of the peer knows the
// blob, the peer keeps its bytes.
func (c *Client) Quarantine(ctx context.Context, d digest.Digest) (name string, err error) {
	r, err := c.Open(ctx, d)
	if err != nil && !c.lost(ctx, d, err) {
		return "", fmt.Errorf("quarantine blob %s: %w", d, err)
	}
	if err == nil {
		if name, err = c.setAside(ctx, r, d); err != nil {
			return "", fmt.Errorf("quarantine blob %s: %w", d, err)
		}
	}
	err = c.Delete(ctx, d)
	if err == nil {
		err = c.Collect(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("quarantine blob %s: %w", d, err)
	}
	return name, nil
}

// lost tells whether the peer has a record of a blob whose bytes cannot be opened.
func (c *Client) lost(ctx context.Context, d digest.Digest, err error) bool {
	if !errdefs.IsNotFound(err) {
		return false
	}
	_, err = c.record(ctx, d)
	return err == nil
}

// setAside writes a blob to a new file.
func (c *Client) setAside(ctx context.Context, r content.Reader, d digest.Digest) (name string, err error) {
	if err := os.MkdirAll(c.o.Aside, 0o700); err != nil {
		return "", err
	}
	var f *os.File
	for i := 0; f == nil; i++ {
		name = filepath.Join(c.o.Aside, fmt.Sprintf("%s-%d", strings.ReplaceAll(d.String(), ":", "-"), i))
		if f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	_, err = io.Copy(f, io.NewSectionReader(r, 0, r.Size()))
	return name, errors.Join(err, f.Sync(), f.Close(), ctx.Err())
}

// Blobs implements [content.Store]. Records whose bytes are gone are passed over.
func (c *Client) Blobs(ctx context.Context) iter.Seq2[content.Info, error] {
	return func(yield func(content.Info, error) bool) {
		for i, err := range c.infos(ctx) {
			info := infoOf(i)
			if err == nil {
				if _, err = c.openRecord(ctx, info, 1); errdefs.IsNotFound(err) {
					continue
				}
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

// Digests implements [content.Store].
func (c *Client) Digests(ctx context.Context) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		for i, err := range c.infos(ctx) {
			if !yield(digest.Digest(i.GetDigest()), err) {
				return
			}
		}
	}
}

// infos lists the peer's records of blobs.
func (c *Client) infos(ctx context.Context) iter.Seq2[*contentapi.Info, error] {
	return func(yield func(*contentapi.Info, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := c.blobs.List(ctx, &contentapi.ListContentRequest{})
		for err == nil {
			var m *contentapi.ListContentResponse
			if m, err = s.Recv(); errors.Is(err, io.EOF) {
				return
			}
			for _, i := range m.GetInfo() {
				if !yield(i, nil) {
					return
				}
			}
		}
		yield(nil, fmt.Errorf("list blobs: %w", native(err)))
	}
}
