package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// sizes lists the blobs of the store with their sizes. What comes or goes meanwhile may be there
// or not.
func (e *Exam) sizes(ctx context.Context) (map[image.Digest]int64, error) {
	found := map[image.Digest]int64{}
	for info, err := range e.Content.Blobs(ctx) {
		if err != nil {
			return nil, err
		}
		found[info.Digest] = info.Size
	}
	return found, nil
}

// purpose says what a blob is for.
func purpose(n metadata.Need) string {
	what := n.Place
	switch {
	case what == "":
		return "a blob that nothing points to"
	case what == "target":
		what = "the root"
	}
	if len(n.Images) == 0 {
		return what + " of a manifest or an index without a name"
	}
	_, name, _ := strings.Cut(n.Images[0], " ")
	what += " of " + name
	if more := len(n.Images) - 1; more > 0 {
		what += fmt.Sprintf(" and of %d more", more)
	}
	return what
}

// wrong reports a blob whose bytes are not what they should be. It is mended by putting them into
// quarantine and bringing the right ones.
func (e *Exam) wrong(ctx context.Context, d image.Digest, size int64, what string) error {
	need, err := e.Meta.Need(ctx, d)
	if err != nil {
		return err
	}
	if need.Size == 0 {
		need.Size = size
	}
	e.report(Finding{
		Subject: d.String(),
		Detail:  purpose(need) + " " + what,
		Repair:  "put it into quarantine and fetch it again",
		mend: func(ctx context.Context) error {
			if _, err := e.Content.Quarantine(ctx, d); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			if need.Place == "" {
				return e.Meta.ForgetBlobs(ctx, d)
			}
			e.want(need.Descriptor)
			return nil
		},
	})
	return nil
}

// wrongSizes finds blobs that have more or fewer bytes than their rows say.
func (e *Exam) wrongSizes(ctx context.Context) error {
	found, err := e.sizes(ctx)
	if err != nil {
		return err
	}
	rows, err := e.Meta.Ledger(ctx)
	if err != nil {
		return err
	}
	var wrong []image.Digest
	for d, size := range found {
		if want, known := rows.Blobs[d]; known && want != size && !rows.Held(d) {
			wrong = append(wrong, d)
		}
	}
	if rows, err = e.Meta.LedgerOf(ctx, wrong...); err != nil {
		return err
	}
	slices.Sort(wrong)
	for _, d := range wrong {
		size := found[d]
		if want, known := rows.Blobs[d]; known && want != size && !rows.Held(d) {
			if err := e.wrong(ctx, d, want, fmt.Sprintf("has %d bytes, not %d", size, want)); err != nil {
				return err
			}
		}
	}
	return nil
}

// corruptBlobs reads all blobs that rows know, if that is asked for, and finds those that do not hash to
// their digest.
func (e *Exam) corruptBlobs(ctx context.Context) error {
	if !e.Verify {
		return nil
	}
	rows, err := e.Meta.Ledger(ctx)
	if err != nil {
		return err
	}
	var list []content.Info
	for d, size := range rows.Blobs {
		if !e.sound[d] {
			list = append(list, content.Info{Digest: d, Size: size})
		}
	}
	var corrupt []image.Digest
	err = VerifyBlobs(ctx, e.Content, list, VerifyOptions{Rate: e.Rate, Progress: e.Progress}, func(f BlobFinding) {
		switch f.Verdict {
		case OK:
			e.sound[f.Digest] = true
		case Corrupt:
			corrupt = append(corrupt, f.Digest)
		}
	})
	if err != nil {
		return err
	}
	// Who held it when it was read may have thrown it away since.
	if rows, err = e.Meta.LedgerOf(ctx, corrupt...); err != nil {
		return err
	}
	slices.Sort(corrupt)
	for _, d := range corrupt {
		size, known := rows.Blobs[d]
		if !known || rows.Held(d) {
			continue
		}
		if err := e.wrong(ctx, d, size, "has bytes that do not hash to its digest"); err != nil {
			return err
		}
	}
	return nil
}

// missingBlobs finds blobs that rows say are here, or that images want, and that are not here.
func (e *Exam) missingBlobs(ctx context.Context) error {
	rows, err := e.Meta.Ledger(ctx)
	if err != nil {
		return err
	}
	found, err := e.sizes(ctx)
	if err != nil {
		return err
	}
	lost := map[image.Digest]image.Descriptor{}
	for d, size := range rows.Blobs {
		if _, here := found[d]; !here && !rows.Held(d) {
			lost[d] = image.Descriptor{Digest: d, Size: size}
		}
	}
	for _, d := range rows.Lacking {
		if !rows.Held(d.Digest) {
			lost[d.Digest] = d
		}
	}
	if len(lost) == 0 {
		return nil
	}
	// What was collected while we looked has no row any more, and what was pulled has its bytes.
	if rows, err = e.Meta.Ledger(ctx); err != nil {
		return err
	}
	for _, d := range rows.Lacking {
		if _, still := lost[d.Digest]; still && !rows.Held(d.Digest) {
			if err := e.missing(ctx, d); err != nil {
				return err
			}
		}
		delete(lost, d.Digest)
	}
	// A row goes before its bytes: one that is there after they were not says what is wrong.
	if rows, err = e.Meta.LedgerOf(ctx, slices.Collect(maps.Keys(lost))...); err != nil {
		return err
	}
	for digest, d := range lost {
		if _, known := rows.Blobs[digest]; !known || rows.Held(digest) {
			continue
		}
		_, err := e.Content.Info(ctx, digest)
		if errdefs.IsNotFound(err) {
			err = e.missing(ctx, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// missing reports a blob that is not here.
func (e *Exam) missing(ctx context.Context, d image.Descriptor) error {
	need, err := e.Meta.Need(ctx, d.Digest)
	if err != nil {
		return err
	}
	f := Finding{Subject: d.Digest.String(), Detail: purpose(need) + " is not there", Repair: "fetch it again"}
	if need.Place != "" {
		d = need.Descriptor
		f.mend = func(context.Context) error {
			e.want(d)
			return nil
		}
	} else {
		f.Repair = "forget it"
		f.mend = func(ctx context.Context) error { return e.Meta.ForgetBlobs(ctx, d.Digest) }
	}
	e.report(f)
	return nil
}
