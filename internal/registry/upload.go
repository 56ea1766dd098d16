package registry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/rate"
)

const (
	// firstChunk, leastChunk and mostChunk are sizes in bytes. A blob that cannot be sent at once
	// is sent in chunks: the first is so large, or half of the blob; they double while all goes
	// well, and become smaller when they are refused or the connection breaks.
	firstChunk = 16 << 20
	leastChunk = 1 << 20
	mostChunk  = 256 << 20
	// maxRestarts is how often an upload is begun again that the registry no longer knows.
	maxRestarts = 4
	// maxDisputes is how often in a row the registry may say that it stands elsewhere than it
	// said before, as it does while it has not noticed yet that a connection broke.
	maxDisputes = 4
	// digestRate is how many bytes a second a registry is trusted to put away before it says that
	// it has them, and to read back before it says that it has all of a blob.
	digestRate = 8 << 20
)

// An upload sends one blob to one host, over as many requests as it takes: at once if it can, else
// in chunks.
type upload struct {
	ctx     context.Context
	host    *endpoint
	repo    string
	d       image.Descriptor
	source  BlobSource
	backoff time.Duration
	turns   *rotation
	onFault func(error)

	at      *url.URL // where the host wants the rest; nil: no upload is open
	offset  int64    // of the next byte
	synced  bool     // offset is where the host stands
	chunked bool
	chunk   int64 // size of the next
	least   int64 // what no chunk but the last may be smaller than
	most    int64 // what no chunk may be larger than, as far as is known

	body     int64 // bytes of the last request's body
	best     int64 // the highest offset there was
	disputes int
	restarts int
	resumed  bool // this upload went on after a fault
	closing  bool // the host may have the blob
	done     bool
	sent     atomic.Int64
}

func newUpload(ctx context.Context, e *endpoint, repo string, d image.Descriptor, from BlobSource, backoff time.Duration, onFault func(error)) *upload {
	return &upload{
		ctx: ctx, host: e, repo: repo, d: d, source: from, backoff: backoff, onFault: onFault,
		turns: newRotation([]*endpoint{e}, backoff),
		chunk: max(min(firstChunk, (d.Size+1)/2), leastChunk), least: leastChunk, most: mostChunk,
	}
}

// run sends the blob, by the upload that is open or by one that it begins.
func (u *upload) run() error {
	for !u.done {
		if err := u.step(); err != nil {
			if err := u.recover(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// step makes one request.
func (u *upload) step() error {
	switch {
	case u.at == nil:
		_, err := u.begin("")
		return err
	case !u.synced:
		return u.sync()
	case !u.chunked:
		return u.finish(u.d.Size)
	case u.offset < u.d.Size:
		return u.patch()
	}
	return u.finish(0)
}

// begin opens an upload. If from is set, the host is asked to take the blob from that repository
// instead, and opens an upload only if it cannot.
func (u *upload) begin(from string) (mounted bool, err error) {
	req := request{method: http.MethodPost, path: "blobs/uploads/"}
	want := []int{http.StatusAccepted}
	if from != "" {
		there, err := u.host.Repo(from)
		if err != nil {
			return false, err
		}
		req.query = url.Values{"mount": {u.d.Digest.String()}, "from": {there}}
		req.scopes = []string{auth.ScopeRepository(there, auth.ActionPull)}
		want = append(want, http.StatusCreated)
	}
	resp, err := u.send(req, 0, want...)
	if err != nil {
		return false, err
	}
	if resp.StatusCode == http.StatusCreated {
		return true, u.checkDigest(resp)
	}
	u.at, u.offset, u.synced, u.resumed, u.closing = nil, 0, true, false, false
	if err := u.moved(resp); err != nil {
		return false, err
	}
	if u.at == nil {
		return false, fmt.Errorf("%s begins an upload of %s and does not say where: %w", u.host.URL.Host, u.what(), errdefs.ErrUnknown)
	}
	if least, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil && least > 0 && least < u.d.Size {
		u.chunked, u.least = true, max(least, leastChunk)
		u.most = max(u.most, u.least)
		u.chunk = max(u.chunk, u.least)
	}
	return false, nil
}

// sync asks the host where it stands.
func (u *upload) sync() error {
	resp, err := u.send(request{method: http.MethodGet, at: u.at}, 0, http.StatusNoContent, http.StatusAccepted)
	if answer := new(Error); errors.As(err, &answer) && !answer.passing() {
		return &forgottenError{err}
	}
	if err != nil {
		return err
	}
	if err := u.moved(resp); err != nil {
		return err
	}
	end, ok := uploaded(resp.Header.Get("Range"))
	if !ok || end > u.d.Size {
		return &forgottenError{fmt.Errorf("%s does not say how much it has of %s: %w", u.host.URL.Host, u.what(), errdefs.ErrUnknown)}
	}
	u.synced = true
	u.chunked = u.chunked || end > 0 // only what has not begun can be sent at once
	u.advance(end)
	return nil
}

// patch sends the next chunk.
func (u *upload) patch() error {
	n := min(u.chunk, u.d.Size-u.offset)
	resp, err := u.send(request{method: http.MethodPatch, at: u.at, header: http.Header{
		"Content-Type":  {"application/octet-stream"},
		"Content-Range": {fmt.Sprintf("%d-%d", u.offset, u.offset+n-1)},
	}}, n, http.StatusAccepted)
	if err != nil {
		return err
	}
	if err := u.moved(resp); err != nil {
		return err
	}
	u.disputes = 0
	u.chunk = min(2*u.chunk, u.most)
	if end, ok := uploaded(resp.Header.Get("Range")); ok && end != u.offset+n && u.offset+n > 1 {
		u.synced = false // it took less
		return nil
	}
	u.advance(u.offset + n)
	return nil
}

// finish has the host check and store the blob, of which the last n bytes go with the request.
func (u *upload) finish(n int64) error {
	at := *u.at
	if at.RawQuery != "" {
		at.RawQuery += "&" // what stands there may be signed, and stays as it is
	}
	at.RawQuery += "digest=" + url.QueryEscape(u.d.Digest.String())
	u.closing = true
	resp, err := u.send(request{method: http.MethodPut, at: &at, header: http.Header{
		"Content-Type": {"application/octet-stream"},
	}}, n, http.StatusCreated)
	if err != nil {
		return err
	}
	u.done = true
	return u.checkDigest(resp)
}

// advance goes on at offset. As long as that leads further, there are as many tries again.
func (u *upload) advance(offset int64) {
	u.offset = offset
	if offset > u.best {
		u.best = offset
		u.turns.progressed()
	}
}

// send makes a request, with the next n bytes of the blob if n is more than 0. The answer has one of
// the statuses in want; its body is closed.
func (u *upload) send(req request, n int64, want ...int) (*http.Response, error) {
	ctx, cancel := context.WithCancel(u.ctx)
	defer cancel()
	take := n
	if req.method == http.MethodPut {
		take = u.d.Size
	}
	ctx = thinking(ctx, time.Duration(take/digestRate)*time.Second)
	u.body = n
	req.repo, req.what = u.repo, u.what()
	req.scopes = append(req.scopes, u.host.pushScopes(u.repo)...)
	f := &feed{ctx: ctx, cancel: cancel, source: u.source, offset: u.offset, length: n, sent: &u.sent}
	if n > 0 {
		req.body, req.length = f.open, n
	}
	resp, err := u.host.send(ctx, req)
	if err == nil {
		if slices.Contains(want, resp.StatusCode) {
			_ = resp.Body.Close() // the headers say it all
		} else {
			err = answered(resp, req.what)
		}
	}
	if failed := f.failed(); err != nil && failed != nil {
		err = &sourceError{failed}
	}
	cancel() // what the transport still reads, it reads in vain
	f.close()
	return resp, err
}

func (u *upload) what() string { return what(u.d, u.repo) }

// moved takes note of where the rest is to be sent.
func (u *upload) moved(resp *http.Response) (err error) {
	if said := resp.Header.Get("Location"); said != "" {
		u.at, err = u.host.follow(resp, said, u.what())
	}
	return err
}

// checkDigest refuses an answer that says that the host stored something else.
func (u *upload) checkDigest(resp *http.Response) error {
	said := image.Digest(resp.Header.Get("Docker-Content-Digest"))
	if said == "" || said == u.d.Digest {
		return nil
	}
	if image.CheckDigest(said) == nil && said.Algorithm() != u.d.Digest.Algorithm() {
		return nil // it may name the same bytes
	}
	return fmt.Errorf("%s says that it stored %s as %s: %w", u.host.URL.Host, u.what(), oneLine(said.String()), errdefs.ErrDataLoss)
}

// uploaded reads how many bytes a host has from the Range that it answers with, 0-N. A host that
// has none says 0-0, as one does that has a single byte.
func uploaded(v string) (int64, bool) {
	v = strings.TrimPrefix(v, "bytes=")
	last, ok := strings.CutPrefix(v, "0-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 || n == math.MaxInt64 {
		return 0, false
	}
	if n == 0 {
		return 0, true
	}
	return n + 1, true
}

// A forgottenError is an upload that the host no longer knows.
type forgottenError struct{ err error }

func (e *forgottenError) Error() string { return e.err.Error() }
func (e *forgottenError) Unwrap() error { return e.err }

// A sourceError is a source that failed.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// recover makes ready for going on after err, or tells that there is no way.
func (u *upload) recover(err error) error {
	if u.ctx.Err() != nil {
		return u.ctx.Err()
	}
	var (
		source    *sourceError
		forgotten *forgottenError
		answer    *Error
		network   *NetworkError
	)
	if errors.As(err, &source) {
		return fmt.Errorf("read %s: %w", u.d.Digest, source.err)
	}
	if errors.As(err, &forgotten) {
		return u.restart(err)
	}
	opened := u.at != nil
	if errors.As(err, &answer) {
		switch {
		case opened && (answer.Status == http.StatusNotFound || answer.Status == http.StatusGone):
			return u.restart(err)
		case answer.Code == "DIGEST_INVALID":
			if u.resumed {
				return u.restart(err) // it may have put the pieces together wrongly
			}
			return fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
		case answer.Status == http.StatusRequestEntityTooLarge && u.body > u.least:
			u.chunked = true
			u.shrink(2)
			return nil // it has taken nothing
		case u.body > 0 && !u.chunked && (answer.Status == http.StatusMethodNotAllowed || answer.Status == http.StatusNotImplemented):
			u.chunked = true
			return nil
		case opened && answer.Status == http.StatusRequestedRangeNotSatisfiable:
			if u.disputes++; u.disputes > maxDisputes {
				return u.restart(err)
			}
			u.synced = false
			return rate.Wait(u.ctx, jitter(u.backoff<<u.disputes))
		}
	}
	pause, over := u.turns.failed(err)
	if over != nil {
		return over
	}
	u.synced, u.resumed = false, true
	if errors.As(err, &network) && u.body > 0 {
		if u.chunked {
			u.shrink(4) // there are fewer tries than halvings
		}
		u.chunked = true
	}
	u.onFault(err)
	return rate.Wait(u.ctx, pause)
}

// shrink makes the next chunk smaller than what was sent in vain by a factor, and lets none after it
// become as large again.
func (u *upload) shrink(by int64) {
	u.most = max(u.body/2, u.least)
	u.chunk = max(min(u.chunk, u.body/by), u.least)
}

// restart begins again with an upload that is lost, unless all of it had arrived before.
func (u *upload) restart(err error) error {
	if u.closing {
		if has, err := u.host.has(u.ctx, blobRequest(u.repo, u.d)); err == nil && has {
			u.done = true
			return nil
		}
	}
	if u.restarts++; u.restarts > maxRestarts {
		return err
	}
	u.at, u.disputes = nil, 0
	u.onFault(err)
	return rate.Wait(u.ctx, jitter(u.backoff<<u.restarts))
}
