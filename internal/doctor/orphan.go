package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// expireLabel says when something may be collected that nothing else keeps.
const expireLabel = "containerd.io/gc.expire"

// orphanBlobs finds blobs that no row knows: an operation died before it wrote their rows, or the
// rows were lost.
func (e *Exam) orphanBlobs(ctx context.Context) error {
	found, err := e.sizes(ctx)
	if err != nil {
		return err
	}
	// What is committed later than this is not in found; what was in it and has no row now was
	// given up by its operation, or is being deleted.
	rows, err := e.Meta.Ledger(ctx)
	if err != nil {
		return err
	}
	strays := slices.DeleteFunc(slices.Sorted(maps.Keys(found)), func(d image.Digest) bool {
		_, known := rows.Blobs[d]
		return known || rows.Held(d)
	})
	if rows, err = e.Meta.LedgerOf(ctx, strays...); err != nil {
		return err
	}
	for _, d := range strays {
		if _, known := rows.Blobs[d]; known || rows.Held(d) {
			continue
		}
		info, err := e.Content.Info(ctx, d)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		need, err := e.Meta.Need(ctx, d)
		if err != nil {
			return err
		}
		repair := "adopt it for a time, if it is what its digest names"
		if len(need.Namespaces) > 0 {
			repair = "give it to its image, if it is what its digest names"
		}
		e.report(Finding{
			Subject: d.String(),
			Detail:  fmt.Sprintf("no record knows this blob of %d bytes: %s", info.Size, purpose(need)),
			Repair:  repair,
			mend:    func(ctx context.Context) error { return e.adopt(ctx, info, need) },
		})
	}
	return nil
}

// adopt makes rows for a blob: in the namespaces of the images that need it, or else in one, where
// it may be collected when its time of grace is over. What is wrong is put into quarantine.
func (e *Exam) adopt(ctx context.Context, info content.Info, need metadata.Need) (err error) {
	namespaces := need.Namespaces
	blob := metadata.Blob{Digest: info.Digest, Size: info.Size}
	if len(namespaces) == 0 {
		namespaces = []string{e.Namespace}
		blob.Labels = map[string]string{expireLabel: info.CreatedAt.Add(e.grace()).UTC().Format(time.RFC3339)}
	}
	hold, err := e.Meta.Hold(ctx, namespaces[0], info.Digest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hold.Release(context.WithoutCancel(ctx))) }()
	var verdict Verdict
	err = VerifyBlobs(ctx, e.Content, []content.Info{info}, VerifyOptions{Rate: e.Rate}, func(f BlobFinding) { verdict = f.Verdict })
	switch {
	case err != nil:
		return err
	case verdict == Missing: // somebody was quicker
		return nil
	case verdict == Corrupt:
		_, err := e.Content.Quarantine(ctx, info.Digest)
		return err
	}
	e.sound[info.Digest] = true
	batch := metadata.Batch{Blobs: []metadata.Blob{blob}}
	if doc, err := e.document(ctx, info); err != nil {
		return err
	} else if doc != nil {
		batch.Documents = []metadata.Document{*doc}
	}
	for _, ns := range namespaces {
		if _, err := e.Meta.Apply(ctx, ns, batch); err != nil {
			return err
		}
	}
	return nil
}

// document reads a blob as a manifest or an index, if it is one.
func (e *Exam) document(ctx context.Context, info content.Info) (*metadata.Document, error) {
	if info.Size > image.MaxDocument {
		return nil, nil
	}
	b, err := content.ReadBlob(ctx, e.Content, info.Digest, image.MaxDocument)
	if err != nil {
		return nil, err
	}
	return metadata.ReadDocument(ctx, e.Content, info.Digest, b)
}
