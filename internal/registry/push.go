package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// A BlobSource is where the bytes of a blob to be pushed come from.
type BlobSource struct {
	// Open reads the blob from offset on. It is called again when bytes have to be sent again; the
	// reader before it is closed by then. It must give the same bytes each time.
	Open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	// From are repositories of the same registry that may have the blob, the likeliest first. A
	// registry that cannot mount from one begins an upload at once, and no other is tried then.
	From []string
}

// Pushed says how a blob came to be where it was pushed to.
type Pushed string

// How a blob came to be where it was pushed to.
const (
	Present  Pushed = "present"  // it was there
	Mounted  Pushed = "mounted"  // the registry took it from another of its repositories
	Uploaded Pushed = "uploaded" // it was sent
)

// A PushOutcome is what came of pushing a blob.
type PushOutcome struct {
	How  Pushed
	From string // the repository that a mounted blob is from
	Sent int64  // bytes that were sent; what had to be sent again counts again
}

// HasBlob tells whether the repository that r names has the blob d, at the host that takes
// uploads. Errors are those of [Client.PushManifest].
func (c *Client) HasBlob(ctx context.Context, r ref.Reference, d image.Descriptor) (bool, error) {
	return c.has(ctx, r, d, blobRequest(r.Repository(), d))
}

// HasManifest tells whether the repository that r names has the manifest or index d, at the host
// that takes uploads. Errors are those of [Client.PushManifest].
func (c *Client) HasManifest(ctx context.Context, r ref.Reference, d image.Descriptor) (bool, error) {
	return c.has(ctx, r, d, manifestRequest(r, d.Digest.String()))
}

func (c *Client) has(ctx context.Context, r ref.Reference, d image.Descriptor, req request) (has bool, err error) {
	if err := image.CheckDescriptor(d); err != nil {
		return false, err
	}
	e, err := c.pushHost(r)
	if err != nil {
		return false, err
	}
	err = c.persist(ctx, e, func() (err error) {
		has, err = e.has(ctx, req)
		return err
	})
	return has, err
}

// PushBlob sees to it that the repository that r names has the blob d: it asks whether it is
// there, then for it to be mounted from another repository, and uploads it if need be. An upload
// that breaks goes on where it was, if the registry still knows; onFault, if not nil, is told
// why. What the source gives is checked against d's digest by the registry, not here.
//
// Errors: those of [Client.PushManifest]; those of the source; [errdefs.ErrDataLoss] also when the
// source ends early.
func (c *Client) PushBlob(ctx context.Context, r ref.Reference, d image.Descriptor, from BlobSource, onFault func(error)) (PushOutcome, error) {
	has, err := c.HasBlob(ctx, r, d)
	if err != nil {
		return PushOutcome{}, err
	}
	if has {
		return PushOutcome{How: Present}, nil
	}
	e, err := c.pushHost(r)
	if err != nil {
		return PushOutcome{}, err
	}
	if onFault == nil {
		onFault = func(error) {}
	}
	u := newUpload(ctx, e, r.Repository(), d, from, c.o.Backoff, onFault)
	for _, repo := range from.From {
		if repo == r.Repository() {
			continue
		}
		mounted := false
		err := c.persist(ctx, e, func() (err error) {
			mounted, err = u.begin(repo)
			return err
		})
		if mounted {
			return PushOutcome{How: Mounted, From: repo}, nil
		}
		if ctx.Err() != nil {
			return PushOutcome{}, ctx.Err()
		}
		if err == nil {
			break // it has begun an upload
		}
		onFault(err)
	}
	if err := u.run(); err != nil {
		return PushOutcome{Sent: u.sent.Load()}, err
	}
	return PushOutcome{How: Uploaded, Sent: u.sent.Load()}, nil
}

// PushManifest stores body, the exact bytes of the manifest or index d, under the tag of r, or
// under d's digest if r has none. What it points to must be there already. A manifest that has
// a subject is entered in the list of that one's referrers where the registry does not do so itself.
// That list is a tag: clients that change it in the same moment are noticed in most cases, not in all.
//
// Errors: [errdefs.ErrFailedPrecondition] when no host of the registry takes uploads;
// [errdefs.ErrUnauthenticated]; [errdefs.ErrPermissionDenied]; [errdefs.ErrUnavailable];
// [errdefs.ErrDataLoss] when body is not what d says, or the registry says that it stored something
// else; [errdefs.ErrInvalidArgument] and [errdefs.ErrNotImplemented] when body is not a document
// that [image.ParseDocument] reads; [errdefs.ErrUnknown] for other refusals.
func (c *Client) PushManifest(ctx context.Context, r ref.Reference, d image.Descriptor, body []byte) error {
	if err := image.Verify(d, body); err != nil {
		return err
	}
	doc, err := image.ParseDocument(body)
	if err != nil {
		return err
	}
	e, err := c.pushHost(r)
	if err != nil {
		return err
	}
	under := r.Tag()
	if under == "" {
		under = d.Digest.String()
	}
	if d.MediaType == "" {
		d.MediaType = doc.MediaType
	}
	listed := false
	err = c.persist(ctx, e, func() (err error) {
		listed, err = e.putManifest(ctx, r.Repository(), under, d.MediaType, body)
		return err
	})
	if err != nil || doc.Subject == nil || listed {
		return err
	}
	return c.addReferrer(ctx, e, r, doc.Subject.Digest, referrer(d, doc))
}

// pushHost is the host that takes uploads for the registry of r.
func (c *Client) pushHost(r ref.Reference) (*endpoint, error) {
	list, err := c.endpoints(r, hosts.Push)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no host of %s is configured to be pushed to: %w", r.Registry(), errdefs.ErrFailedPrecondition)
	}
	return list[0], nil
}

// persist asks one host until it has an answer.
func (c *Client) persist(ctx context.Context, e *endpoint, ask func() error) error {
	return c.inTurn(ctx, []*endpoint{e}, func(*endpoint) error { return ask() })
}

// pushScopes are what a token must allow to push to repo. All requests of a push name the same, so
// that one token does.
func (e *endpoint) pushScopes(repo string) []string {
	there, err := e.Repo(repo)
	if err != nil {
		return nil // the request fails for the same reason
	}
	return []string{auth.ScopeRepository(there, auth.ActionPull, auth.ActionPush)}
}

// has tells whether one host has what req is about, for a push to go on from.
func (e *endpoint) has(ctx context.Context, req request) (bool, error) {
	req.method, req.scopes = http.MethodHead, e.pushScopes(req.repo)
	resp, err := e.send(ctx, req)
	if err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusOK {
		if err := answered(resp, req.what); !errdefs.IsNotFound(err) {
			return false, err
		}
		return false, nil
	}
	_ = resp.Body.Close() // there is nothing in it
	if mediaType(resp) == "text/html" {
		return false, errHTML(resp, req.what)
	}
	return true, nil
}

// putManifest stores a document at one host. It tells whether the host took note of its subject.
func (e *endpoint) putManifest(ctx context.Context, repo, under, mediaType string, body []byte) (listed bool, err error) {
	req := request{
		method: http.MethodPut, repo: repo, path: "manifests/" + under, what: "manifest " + under + " of " + repo,
		header: http.Header{"Content-Type": {mediaType}}, scopes: e.pushScopes(repo),
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
		length: int64(len(body)),
	}
	resp, err := e.send(ctx, req)
	if err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusCreated {
		return false, answered(resp, req.what)
	}
	_ = resp.Body.Close() // what it says besides is of no interest
	if said := image.Digest(resp.Header.Get("Docker-Content-Digest")); said != "" {
		// It may be of another algorithm than the one that was pushed by.
		if err := image.Verify(image.Descriptor{Digest: said, Size: int64(len(body))}, body); err != nil {
			return false, fmt.Errorf("%s stored something else as %s: %w", e.URL.Host, req.what, errors.Join(errdefs.ErrDataLoss, err))
		}
	}
	return resp.Header.Get("OCI-Subject") != "", nil
}
