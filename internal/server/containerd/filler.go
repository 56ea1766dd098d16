package containerd

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage"
)

const (
	// fillAfter is how long a client that has just named an image is left to go on with it.
	fillAfter = time.Second
	// fillBackoff is the pause after the first failure; it is doubled with each, up to the second.
	fillBackoff, maxFillBackoff = 5 * time.Second, 10 * time.Minute
	// maxFills is how often it is tried.
	maxFills = 12
	// maxFilled bounds the images that are waited for. Others are fetched when somebody reads them, and
	// found when the daemon starts again.
	maxFilled = 4096
)

// A filler fetches what clients left out of images that they brought: a client that has a layer unpacked
// does not fetch another blob of the same content. It is done for one image at a time.
type filler struct {
	store *stowage.Store
	log   *slog.Logger
	wake  chan struct{} // holds a token when there is something new

	mu    sync.Mutex
	tries map[unfilled]try
}

// An unfilled is an image that is not whole.
type unfilled struct{ namespace, name string }

// A try is what is to become of it.
type try struct {
	count int
	at    time.Time // zero: when a client of the namespace has gone on
}

func newFiller(store *stowage.Store, log *slog.Logger) *filler {
	return &filler{store: store, log: log, wake: make(chan struct{}, 1), tries: map[unfilled]try{}}
}

// add notes an image that has just been named.
func (f *filler) add(store *stowage.Store, img stowage.Image) {
	if img.State == stowage.Partial {
		f.set(unfilled{store.Namespace(), img.Name}, try{at: time.Now().Add(fillAfter)})
	}
}

func (f *filler) set(u unfilled, t try) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.tries[u]; ok || len(f.tries) < maxFilled {
		f.tries[u] = t
	}
	f.poke()
}

func (f *filler) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// wentOn notes that a client of a namespace has ended something: it may have unpacked an image that it
// named before.
func (f *filler) wentOn(namespace string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for u, t := range f.tries {
		if u.namespace == namespace && t.at.IsZero() {
			f.tries[u] = try{count: t.count, at: time.Now()}
		}
	}
	f.poke()
}

// next is what is to be tried first; ok is false if there is nothing.
func (f *filler) next() (first unfilled, t try, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for u, other := range f.tries {
		if !other.at.IsZero() && (!ok || other.at.Before(t.at)) {
			first, t, ok = u, other, true
		}
	}
	return first, t, ok
}

// done notes what became of a try, unless there is something new to try.
func (f *filler) done(u unfilled, was try, is *try) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.tries[u] != was:
	case is == nil:
		delete(f.tries, u)
	default:
		f.tries[u] = *is
	}
}

// run fetches until ctx ends: what clients leave out from now on, and what was left when an earlier
// daemon ended.
func (f *filler) run(ctx context.Context) {
	if err := f.look(ctx); err != nil && ctx.Err() == nil {
		f.log.Warn("images that are not whole were not looked for", "reason", err)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		u, t, ok := f.next()
		if ok && !time.Now().Before(t.at) {
			f.try(ctx, u, t)
			if ctx.Err() != nil {
				return
			}
			continue
		}
		if ok {
			timer.Reset(time.Until(t.at))
		}
		select {
		case <-timer.C:
		case <-f.wake:
		case <-ctx.Done():
			return
		}
	}
}

// look notes the images that are not whole.
func (f *filler) look(ctx context.Context) error {
	namespaces, err := f.store.Namespaces(ctx)
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		store, err := f.store.In(ns.Name)
		if err != nil {
			return err
		}
		list, err := store.Images(ctx)
		if err != nil {
			return err
		}
		for _, img := range list {
			f.add(store, img)
		}
	}
	return nil
}

// try fetches what was left out of one image.
func (f *filler) try(ctx context.Context, u unfilled, t try) {
	store, err := f.store.In(u.namespace)
	var got []stowage.Refetched
	if err == nil {
		err = f.settle(ctx, store, u.name)
	}
	if err == nil {
		got, err = store.FetchSkipped(ctx, u.name)
	}
	log := f.log.With("namespace", u.namespace, "image", u.name)
	if len(got) > 0 {
		log.Info("fetched what a client had left out", "blobs", len(got))
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		img, err := store.Metadata().Image(ctx, u.namespace, u.name)
		if err == nil && img.State == stowage.Partial && t.count+1 < maxFills {
			f.done(u, t, &try{count: t.count + 1}) // its client may not have unpacked it yet
		} else {
			f.done(u, t, nil)
		}
	case errdefs.IsNotFound(err), errdefs.IsInvalidArgument(err), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err), t.count+1 >= maxFills:
		log.Warn("what a client left out cannot be fetched", "reason", err)
		f.done(u, t, nil)
	default:
		pause := min(fillBackoff<<t.count, maxFillBackoff)
		log.Info("what a client left out was not fetched yet", "reason", err, "pause", pause)
		f.done(u, t, &try{count: t.count + 1, at: time.Now().Add(pause)})
	}
}

// settle names an image once more, as what it is by now: its client may have brought more of it since.
func (f *filler) settle(ctx context.Context, store *stowage.Store, name string) error {
	img, err := store.Metadata().Image(ctx, store.Namespace(), name)
	if err != nil || img.State != stowage.Partial {
		return err
	}
	_, err = store.NameImage(ctx, stowage.PutImage{Name: name, Target: img.Target, Known: true, Exclusive: true})
	if errdefs.IsAlreadyExists(err) {
		return nil // the name has just been moved, which is told as well
	}
	return err
}

// fetch fetches a blob for somebody who waits for it, if a client left it out of an image of the
// namespace.
func (f *filler) fetch(ctx context.Context, store *stowage.Store, d stowage.Digest) error {
	need, err := store.Metadata().Need(ctx, d)
	if err != nil {
		return err
	}
	for _, above := range need.Images {
		ns, name, _ := strings.Cut(above, " ")
		if ns != store.Namespace() {
			continue
		}
		if _, err := store.FetchSkipped(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
