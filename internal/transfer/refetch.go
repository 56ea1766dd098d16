package transfer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/par"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
)

// RefetchOptions tunes [Refetch]. The zero value asks where the blobs came from.
type RefetchOptions struct {
	// From are asked first, in this order: archives, plain or compressed, folders of OCI layouts,
	// and repositories of registries. Which image an endpoint names does not matter.
	From     []Endpoint
	Streams  int // blobs fetched at once; 0: 4
	Progress progress.Sink
}

// Refetched is a blob that was fetched again.
type Refetched struct {
	Digest image.Digest `json:"digest"`
	Size   int64        `json:"size"` // bytes
	From   string       `json:"from"` // HOST/REPOSITORY, or an endpoint
}

// A LostError reports blobs that are not here and could not be had from anywhere.
type LostError struct{ Lost []Lost }

// Lost is one blob of a [LostError].
type Lost struct {
	image.Descriptor
	Tried []error // one for each place that was asked; none: nobody knows where it came from
}

func (e *LostError) Error() string {
	// What failed for the same reason is told together.
	var reasons []string
	because := map[string][]string{}
	for _, l := range e.Lost {
		reason := "nothing says where it came from"
		if len(l.Tried) > 0 {
			reason = strings.ReplaceAll(errors.Join(l.Tried...).Error(), "\n", "; ")
			reason = strings.ReplaceAll(reason, " "+l.Digest.String(), "")
		}
		if because[reason] == nil {
			reasons = append(reasons, reason)
		}
		because[reason] = append(because[reason], l.Digest.String())
	}
	for i, reason := range reasons {
		reasons[i] = strings.Join(because[reason], " ") + ": " + reason
	}
	noun := "blobs"
	if len(e.Lost) == 1 {
		noun = "blob"
	}
	return fmt.Sprintf("%d %s could not be fetched: %s", len(e.Lost), noun, strings.Join(reasons, "; "))
}

// Unwrap gives the error of a place that may have the blob, such as one that was not reached. When every
// place was asked and none has it, a LostError is a *[MissingError].
func (e *LostError) Unwrap() error {
	missing := &MissingError{}
	for _, l := range e.Lost {
		for _, err := range l.Tried {
			if !errdefs.IsNotFound(err) {
				return err
			}
		}
		missing.Missing = append(missing.Missing, l.Descriptor)
	}
	return missing
}

// Refetch brings blobs that were evicted or lost: from where [RefetchOptions] say, then from the
// repositories that were noted on a blob and on what holds it, then from those that the names of images
// point to. Every blob is verified, and durable before its row is written; images of all namespaces
// that lacked it are as complete as it makes them. Blobs that are here by now are not fetched, and are not
// in the result.
//
// Errors: a *[LostError] for those that could not be had; the others are there all the same.
func Refetch(ctx context.Context, s Store, reg Registry, want []image.Descriptor, o RefetchOptions) (done []Refetched, err error) {
	if len(want) == 0 {
		return nil, nil
	}
	r := &refetch{Store: s, reg: reg, o: o, wants: map[image.Digest]*wanted{}}
	if r.o.Streams < 1 {
		r.o.Streams = defaultStreams
	}
	for _, d := range want {
		if err := image.CheckDescriptor(d); err != nil {
			return nil, fmt.Errorf("refetch: %w", err)
		}
		if r.wants[d.Digest] == nil {
			r.wants[d.Digest] = &wanted{need: need{Descriptor: d, what: "blob"}}
		}
	}
	hold, err := s.Meta.Hold(ctx, s.Namespace, slices.Collect(maps.Keys(r.wants))...)
	if err != nil {
		return nil, fmt.Errorf("refetch: %w", err)
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	err = r.run(ctx)
	// What came is kept, whatever became of the rest.
	if rowsErr := r.rows(context.WithoutCancel(ctx)); err == nil {
		err = rowsErr
	}
	if err != nil {
		return nil, fmt.Errorf("refetch: %w", err)
	}
	lost := &LostError{}
	for _, w := range r.sorted() {
		switch {
		case !w.here:
			lost.Lost = append(lost.Lost, Lost{w.Descriptor, w.tried})
		case w.from != "":
			done = append(done, Refetched{w.Digest, w.Size, w.from})
		}
	}
	if len(lost.Lost) > 0 {
		return done, lost
	}
	return done, nil
}

// refetch is one running [Refetch].
type refetch struct {
	Store
	reg   Registry
	o     RefetchOptions
	wants map[image.Digest]*wanted
}

// wanted is one blob that is to be fetched. Its fields are those of one goroutine at a time.
type wanted struct {
	need
	sources metadata.Sources
	here    bool
	from    string            // where it was fetched from; empty: it was here
	labels  map[string]string // that say so
	tried   []error
}

// sorted lists the blobs in the order of their digests.
func (r *refetch) sorted() []*wanted {
	list := make([]*wanted, 0, len(r.wants))
	for _, d := range slices.Sorted(maps.Keys(r.wants)) {
		list = append(list, r.wants[d])
	}
	return list
}

// open lists the blobs that are still to be had.
func (r *refetch) open() []*wanted {
	return slices.DeleteFunc(r.sorted(), func(w *wanted) bool { return w.here })
}

// run brings what it can; its error is what keeps it from going on.
func (r *refetch) run(ctx context.Context) (err error) {
	for _, w := range r.sorted() {
		if w.sources, err = r.Meta.Sources(ctx, w.Digest); err != nil {
			return err
		}
		if w.sources.Document {
			w.what = "manifest"
		}
		if w.here, err = r.haveDurably(ctx, w.Descriptor); err != nil {
			return err
		}
	}
	for _, e := range r.o.From {
		open := r.open()
		if len(open) == 0 {
			return nil
		}
		if err := r.fromEndpoint(ctx, e, open); err != nil {
			if ctx.Err() != nil {
				return err
			}
			for _, w := range open {
				w.tried = append(w.tried, fmt.Errorf("%s: %w", e, err))
			}
		}
	}
	return par.Each(ctx, r.o.Streams, r.open(), func(ctx context.Context, w *wanted) error {
		for _, at := range w.places() {
			if err := r.try(ctx, w, registryOutlet(r.reg, at)); err != nil || w.here {
				return err
			}
		}
		return nil
	})
}

// places lists the repositories that a blob may be had from.
func (w *wanted) places() []ref.Reference {
	var list []ref.Reference
	add := func(name string) {
		r, err := ref.Parse(name)
		if err != nil {
			return // labels and names are written by others, too
		}
		if !slices.ContainsFunc(list, func(other ref.Reference) bool { return other.Name() == r.Name() }) {
			list = append(list, r)
		}
	}
	for _, from := range w.sources.From {
		add(from.Registry + "/" + from.Name)
	}
	for _, name := range w.sources.Images {
		add(name)
	}
	return list
}

// An outlet is a place that may have blobs.
type outlet struct {
	name   string // as people are told
	from   blobs
	at     ref.Reference
	labels map[string]string // of what comes from there
}

func registryOutlet(reg Registry, at ref.Reference) outlet {
	return outlet{name: at.Name(), from: reg, at: at, labels: sourceLabels(at)}
}

// try asks one place for one blob. That it cannot give it is noted, and is no error.
func (r *refetch) try(ctx context.Context, w *wanted, o outlet) error {
	if w.sources.Document {
		if reg, ok := o.from.(Registry); ok {
			o.from = documentsOf{reg}
		}
	}
	f := &fetcher{content: r.Content, from: o.from, source: o.at, sink: r.o.Progress}
	in, err := f.fetch(ctx, w.need, true)
	if err == nil && in != nil {
		err = r.Content.Commit(ctx, in)
	}
	var blob *blobError
	if errors.As(err, &blob) {
		err = blob.error // which blob it is need not be said again
	}
	switch {
	case ctx.Err() != nil:
		return errors.Join(err, ctx.Err())
	case err != nil:
		w.tried = append(w.tried, fmt.Errorf("%s: %w", o.name, err))
	case in == nil:
		w.here = true // somebody else was quicker
	default:
		r.came(w, o.name, o.labels)
	}
	return nil
}

// came notes where a blob came from.
func (r *refetch) came(w *wanted, from string, labels map[string]string) {
	w.here, w.from, w.labels = true, from, labels
	r.o.Progress.Send(progress.Event{Kind: progress.Fetched, Digest: w.Digest.String(), What: w.what, Total: w.Size, Message: from})
}

// rows makes known what came, in every namespace that has a use for it.
func (r *refetch) rows(ctx context.Context) error {
	batches := map[string]*metadata.Batch{}
	var order []string
	for _, w := range r.sorted() {
		if !w.here {
			continue
		}
		namespaces := w.sources.Namespaces
		if len(namespaces) == 0 {
			namespaces = []string{r.Namespace}
		}
		var docs []metadata.Document
		if w.sources.Document {
			b, err := content.ReadBlob(ctx, r.Content, w.Digest, image.MaxDocument)
			if err != nil {
				return err
			}
			doc, err := image.ParseDocument(b)
			if err != nil {
				return fmt.Errorf("manifest %s: %w", w.Digest, err)
			}
			known, err := r.described(ctx, w.Descriptor, *doc)
			if err != nil {
				return err
			}
			docs = append(docs, known)
		}
		for _, ns := range namespaces {
			if batches[ns] == nil {
				batches[ns] = &metadata.Batch{}
				order = append(order, ns)
			}
			batches[ns].Blobs = append(batches[ns].Blobs, metadata.Blob{Digest: w.Digest, Size: w.Size, Labels: w.labels})
			batches[ns].Documents = append(batches[ns].Documents, docs...)
		}
	}
	for _, ns := range order {
		if _, err := r.Meta.Apply(ctx, ns, *batches[ns]); err != nil {
			return err
		}
	}
	return nil
}
