// Package mem keeps blobs in memory. It is for tests and for stores that need not outlive their
// process; its ingests are shared by the goroutines of one.
package mem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
)

// Store is a [content.Store] in memory.
type Store struct {
	mu      sync.Mutex
	blobs   map[digest.Digest]blob
	aside   map[string]blob // in quarantine
	ingests map[string]*kept
}

type blob struct {
	data []byte // never changed
	at   time.Time
}

// kept is what there is under the key of an ingest.
type kept struct {
	want      content.Want
	data      []byte
	startedAt time.Time
	updatedAt time.Time
	free      chan struct{} // closed when its writer ends; nil without one
}

// status describes k under its key; the store is locked.
func (k *kept) status(key string) content.Status {
	return content.Status{
		Key: key, Offset: int64(len(k.data)), Size: k.want.Size, Digest: k.want.Digest,
		StartedAt: k.startedAt, UpdatedAt: k.updatedAt, Busy: k.free != nil,
	}
}

var _ content.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	return &Store{blobs: map[digest.Digest]blob{}, aside: map[string]blob{}, ingests: map[string]*kept{}}
}

// Info implements [content.Store].
func (s *Store) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	b, err := s.get(d)
	if err != nil {
		return content.Info{}, fmt.Errorf("look up blob %s: %w", d, err)
	}
	return content.Info{Digest: d, Size: int64(len(b.data)), CreatedAt: b.at, ChangedAt: b.at, Settled: true}, nil
}

// Open implements [content.Store].
func (s *Store) Open(_ context.Context, d digest.Digest) (content.Reader, error) {
	b, err := s.get(d)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d, err)
	}
	return reader{bytes.NewReader(b.data)}, nil
}

type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

func (s *Store) get(d digest.Digest) (blob, error) {
	if err := content.Validate(d); err != nil {
		return blob{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[d]
	if !ok {
		return blob{}, errdefs.ErrNotFound
	}
	return b, nil
}

// Delete implements [content.Store].
func (s *Store) Delete(_ context.Context, d digest.Digest) error {
	if _, err := s.get(d); err != nil {
		return fmt.Errorf("delete blob %s: %w", d, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blobs, d)
	return nil
}

// Quarantine implements [content.Store].
func (s *Store) Quarantine(_ context.Context, d digest.Digest) (string, error) {
	b, err := s.get(d)
	if err != nil {
		return "", fmt.Errorf("quarantine blob %s: %w", d, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := fmt.Sprintf("%s-%d", d, len(s.aside))
	s.aside[name] = b
	delete(s.blobs, d)
	return name, nil
}

// Digests implements [content.Store].
func (s *Store) Digests(ctx context.Context) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		for info, err := range s.Blobs(ctx) {
			if !yield(info.Digest, err) {
				return
			}
		}
	}
}

// Blobs implements [content.Store].
func (s *Store) Blobs(ctx context.Context) iter.Seq2[content.Info, error] {
	return func(yield func(content.Info, error) bool) {
		s.mu.Lock()
		blobs := maps.Clone(s.blobs)
		s.mu.Unlock()
		for d, b := range blobs {
			if err := ctx.Err(); err != nil {
				yield(content.Info{}, fmt.Errorf("list blobs: %w", err))
				return
			}
			if !yield(content.Info{Digest: d, Size: int64(len(b.data)), CreatedAt: b.at, ChangedAt: b.at, Settled: true}, nil) {
				return
			}
		}
	}
}

// Begin implements [content.Store].
func (s *Store) Begin(ctx context.Context, key string, want content.Want) (content.Ingest, error) {
	err := content.ValidateIngest(key, want)
	for err == nil {
		var in *ingest
		var busy chan struct{}
		if in, busy, err = s.try(key, want); in != nil {
			return in, nil
		}
		if busy == nil {
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return nil, fmt.Errorf("begin ingest %s: %w", key, err)
}

// try gives the ingest, or a channel that tells when to try again, or an error.
func (s *Store) try(key string, want content.Want) (*ingest, chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.blobs[want.Digest]; ok {
		return nil, nil, fmt.Errorf("%s: %w", want.Digest, errdefs.ErrAlreadyExists)
	}
	k := s.ingests[key]
	switch {
	case k == nil || k.free == nil && !k.want.Same(want):
		k = &kept{want: want, startedAt: time.Now(), updatedAt: time.Now()}
		s.ingests[key] = k
	case k.free != nil && want.Wait:
		return nil, k.free, nil
	case k.free != nil:
		return nil, nil, fmt.Errorf("another writer has it: %w", errdefs.ErrUnavailable)
	}
	k.want, k.free = want, make(chan struct{})
	in := &ingest{store: s, key: key, kept: k, hash: want.Algorithm().Hash()}
	in.hash.Write(k.data)
	return in, nil, nil
}

// Commit implements [content.Store].
func (s *Store) Commit(ctx context.Context, ingests ...content.Ingest) error {
	var errs []error
	for _, c := range ingests {
		if err := s.commit(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("commit ingest %s: %w", c.Key(), err))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) commit(ctx context.Context, c content.Ingest) error {
	in, ok := c.(*ingest)
	if !ok || in.store != s {
		return errors.Join(fmt.Errorf("it is not of this store: %w", errdefs.ErrInvalidArgument), c.Close())
	}
	if err := in.usable(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(err, in.Close())
	}
	err := in.kept.want.Check(in.Offset(), in.Digest())
	switch {
	case errdefs.IsOutOfRange(err):
		return errors.Join(err, in.Close())
	case err != nil:
		return errors.Join(err, in.Abort())
	}
	s.mu.Lock()
	s.blobs[in.Digest()] = blob{in.kept.data, time.Now()}
	s.mu.Unlock()
	return in.Abort() // the blob has the bytes now
}

// Ingests implements [content.Store].
func (s *Store) Ingests(ctx context.Context) ([]content.Status, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list ingests: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []content.Status
	for _, key := range slices.Sorted(maps.Keys(s.ingests)) {
		list = append(list, s.ingests[key].status(key))
	}
	return list, nil
}

// Status implements [content.Store].
func (s *Store) Status(_ context.Context, key string) (content.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.ingests[key]
	err := content.ValidateIngest(key, content.Want{})
	if err == nil && k == nil {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return content.Status{}, fmt.Errorf("ingest %s: %w", key, err)
	}
	return k.status(key), nil
}

// Abort implements [content.Store].
func (s *Store) Abort(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.ingests[key]
	err := content.ValidateIngest(key, content.Want{})
	switch {
	case err != nil:
	case k == nil:
		err = errdefs.ErrNotFound
	case k.free != nil:
		err = fmt.Errorf("a writer has it: %w", errdefs.ErrUnavailable)
	default:
		delete(s.ingests, key)
		return nil
	}
	return fmt.Errorf("abort ingest %s: %w", key, err)
}
