// Package doctor finds out whether what the store says is so, and mends what is not.
//
// [Run] looks for every kind of damage. A kind is one file: a method of [Exam] that looks, and that
// reports findings which know what mends them. Looking changes nothing, and is right beside
// running operations. Mending never throws away bytes that may be needed: what is wrong is put
// into quarantine.
package doctor

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/par"
)

// A Verdict says how a blob was found.
type Verdict string

// The verdicts.
const (
	OK      Verdict = "ok"
	Corrupt Verdict = "corrupt" // its bytes do not hash to its digest
	Missing Verdict = "missing"
)

// A BlobFinding is what was found of one blob.
type BlobFinding struct {
	Digest  image.Digest `json:"digest"`
	Verdict Verdict      `json:"verdict"`
	Detail  string       `json:"detail,omitempty"`
}

// VerifyBlob reads a blob and compares its digest. The error is for what kept it from doing so.
func VerifyBlob(ctx context.Context, store content.Store, d image.Digest) (BlobFinding, error) {
	f := BlobFinding{Digest: d, Verdict: OK}
	r, err := store.Open(ctx, d)
	if errdefs.IsNotFound(err) {
		f.Verdict = Missing
		return f, nil
	}
	if err != nil {
		return f, err
	}
	_, err = content.Copy(ctx, io.Discard, r, d)
	closeErr := r.Close()
	switch {
	case errdefs.IsDataLoss(err):
		f.Verdict, f.Detail = Corrupt, err.Error()
	case err != nil:
		return f, fmt.Errorf("verify blob %s: %w", d, err)
	}
	return f, closeErr
}

// VerifyBlobs is [VerifyBlob] for many, as many at once as there are processors. report is
// called for one finding at a time, in no order.
func VerifyBlobs(ctx context.Context, store content.Store, list []image.Digest, report func(BlobFinding)) error {
	var mu sync.Mutex
	return par.Each(ctx, runtime.GOMAXPROCS(0), list, func(ctx context.Context, d image.Digest) error {
		f, err := VerifyBlob(ctx, store, d)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		report(f)
		return nil
	})
}
