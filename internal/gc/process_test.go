package gc_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/metadata"
)

var (
	errDied    = errors.New("the process is dead")
	errEndless = errors.New("it does not end")
)

// endless is more calls than an act can need.
const endless = 5000

// A process is a store as one process has it. It may die at any call to what it stands on, before
// the call is done or after it, and others may act between its calls.
type process struct {
	kv.DB
	content.Store
	holders string
	meta    *metadata.Store

	calls     int // of this act
	left      int // calls until it dies; negative: it lives
	dead      bool
	committed bool // the last Update was
	cancel    func()
	others    func(changed bool)
	pause     time.Duration // what reading a row takes
}

func newProcess(db kv.DB, blobs content.Store, holders string) *process {
	p := &process{DB: db, Store: blobs, holders: holders, left: -1}
	p.meta = metadata.New(p, holders)
	return p
}

func (p *process) dies() bool {
	p.dead = p.dead || p.left == 0
	p.left = max(p.left-1, -1)
	return p.dead
}

// call does f as a living process does, and tells nobody of it if the process died meanwhile. Others
// are told whether f may change something.
func (p *process) call(changes bool, f func() error) error {
	if p.dies() {
		return errDied
	}
	if p.calls++; p.calls > endless {
		return errEndless
	}
	err := f()
	if p.dies() {
		return errDied
	}
	if p.others != nil {
		p.others(changes)
	}
	return err
}

func (p *process) View(ctx context.Context, f func(kv.Reader) error) error {
	return p.call(false, func() error {
		return p.DB.View(ctx, func(r kv.Reader) error { return f(slowReader{r, p.pause}) })
	})
}

func (p *process) Update(ctx context.Context, f func(kv.Writer) error) error {
	p.committed = false
	return p.call(true, func() error {
		err := p.DB.Update(ctx, func(w kv.Writer) error { return f(slowWriter{w, slowReader{w, p.pause}}) })
		p.committed = err == nil
		if p.cancel != nil {
			p.cancel()
		}
		return err
	})
}

func (p *process) Delete(ctx context.Context, d image.Digest) error {
	return p.call(true, func() error { return p.Store.Delete(ctx, d) })
}

func (p *process) Digests(ctx context.Context) iter.Seq2[image.Digest, error] {
	return func(yield func(image.Digest, error) bool) {
		var list []image.Digest
		err := p.call(false, func() error {
			for d, err := range p.Store.Digests(ctx) {
				if err != nil {
					return err
				}
				list = append(list, d)
			}
			slices.Sort(list) // the same for the same sequence
			return nil
		})
		for _, d := range list {
			if !yield(d, nil) {
				return
			}
		}
		if err != nil {
			yield("", err)
		}
	}
}

func (p *process) Info(ctx context.Context, d image.Digest) (info content.Info, err error) {
	err = p.call(false, func() error {
		info, err = p.Store.Info(ctx, d)
		return err
	})
	return info, err
}

// A slowReader takes its time, so that whoever bounds the length of transactions ends them.
type slowReader struct {
	kv.Reader
	pause time.Duration
}

func (r slowReader) Get(key []byte) ([]byte, error) {
	time.Sleep(r.pause)
	return r.Reader.Get(key)
}

func (r slowReader) Scan(prefix []byte) iter.Seq2[kv.Entry, error] {
	time.Sleep(r.pause)
	return r.Reader.Scan(prefix)
}

func (r slowReader) ScanFrom(prefix, from []byte) iter.Seq2[kv.Entry, error] {
	return func(yield func(kv.Entry, error) bool) {
		for e, err := range r.Reader.ScanFrom(prefix, from) {
			if time.Sleep(r.pause); !yield(e, err) {
				return
			}
		}
	}
}

type slowWriter struct {
	kv.Writer
	slow slowReader
}

func (w slowWriter) Get(key []byte) ([]byte, error)                { return w.slow.Get(key) }
func (w slowWriter) Scan(prefix []byte) iter.Seq2[kv.Entry, error] { return w.slow.Scan(prefix) }

func (w slowWriter) ScanFrom(prefix, from []byte) iter.Seq2[kv.Entry, error] {
	return w.slow.ScanFrom(prefix, from)
}

// again is the process that takes the place of one that died with holds: their lock files are
// still there, and nobody has the locks.
func (p *process) again(holds []*metadata.Hold) (*process, error) {
	p.dead = true
	files, err := os.ReadDir(p.holders)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, h := range holds {
		if err := h.Release(context.Background()); !errors.Is(err, errDied) {
			return nil, errors.Join(errors.New("a dead process released a hold"), err)
		}
	}
	for _, f := range files {
		f, err := os.OpenFile(filepath.Join(p.holders, f.Name()), os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return newProcess(p.DB, p.Store, p.holders), nil
}
