package registry

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/rate"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

// Resolved is what a reference stands for now.
type Resolved struct {
	image.Descriptor
	Body []byte // the bytes that Descriptor names, if they had to be fetched; else nil
}

// Resolve finds out what a reference stands for. A digest in it wins over the tag. One HEAD is
// enough where the registry tells all; else the document itself is fetched.
//
// Errors: [errdefs.ErrNotFound]; [errdefs.ErrUnauthenticated] also for what a registry hides from
// strangers; [errdefs.ErrPermissionDenied]; [errdefs.ErrUnavailable]; [errdefs.ErrDataLoss] when
// the bytes do not match a digest; [errdefs.ErrInvalidArgument] when they are too many, or hosts.toml
// is wrong.
func (c *Client) Resolve(ctx context.Context, r ref.Reference) (Resolved, error) {
	want, need := r.Digest().String(), hosts.Pull
	if want == "" {
		want, need = r.Tag(), hosts.Pull|hosts.Resolve
	}
	var found Resolved
	err := c.try(ctx, r, need, func(e *endpoint) (err error) {
		found, err = e.resolve(ctx, manifestRequest(r, want), r.Digest())
		return err
	})
	return found, err
}

// Manifest fetches the bytes of a manifest or an index, and checks them. Errors are those of
// [Client.Resolve].
func (c *Client) Manifest(ctx context.Context, r ref.Reference, d image.Descriptor) ([]byte, error) {
	if err := image.CheckDescriptor(d); err != nil {
		return nil, err
	}
	if d.Size > image.MaxDocument {
		return nil, tooLarge(d.Digest.String(), d.Size)
	}
	var body []byte
	err := c.try(ctx, r, hosts.Pull, func(e *endpoint) error {
		_, b, err := e.document(ctx, manifestRequest(r, d.Digest.String()))
		if err != nil {
			return err
		}
		if err := image.Verify(d, b); err != nil {
			return fmt.Errorf("%s: %w", e.URL.Host, err)
		}
		body = b
		return nil
	})
	return body, err
}

// try asks the hosts of r in turn until one has an answer.
func (c *Client) try(ctx context.Context, r ref.Reference, need hosts.Capabilities, ask func(*endpoint) error) error {
	list, err := c.endpoints(r, need)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return noHost(r)
	}
	return c.inTurn(ctx, list, ask)
}

// inTurn asks hosts, each as often as makes sense, until one has an answer.
func (c *Client) inTurn(ctx context.Context, list []*endpoint, ask func(*endpoint) error) error {
	turns := newRotation(list, c.o.Backoff)
	for {
		err := ask(turns.next())
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause, over := turns.failed(err)
		if over != nil {
			return over
		}
		if err := rate.Wait(ctx, pause); err != nil {
			return err
		}
	}
}

func noHost(r ref.Reference) error {
	return fmt.Errorf("no host of %s is configured for this: %w", r.Registry(), errdefs.ErrFailedPrecondition)
}

func manifestRequest(r ref.Reference, want string) request {
	return request{
		repo:   r.Repository(),
		path:   "manifests/" + want,
		what:   "manifest " + want + " of " + r.Repository(),
		header: http.Header{"Accept": image.DocumentTypes()},
	}
}

// resolve asks one host what req is; d is the digest it must have, if that is known.
func (e *endpoint) resolve(ctx context.Context, req request, d digest.Digest) (Resolved, error) {
	req.method = http.MethodHead
	resp, err := e.send(ctx, req)
	if err != nil {
		return Resolved{}, err
	}
	if resp.StatusCode == http.StatusOK {
		if err := resp.Body.Close(); err != nil {
			return Resolved{}, e.broken(err, req.what)
		}
		if found, ok := describe(resp); ok && (d == "" || d == found.Digest) {
			if found.Size > image.MaxDocument {
				return Resolved{}, tooLarge(req.what, found.Size)
			}
			return Resolved{Descriptor: found}, nil
		}
	} else if err := answered(resp, req.what); final(err) {
		return Resolved{}, err
	}
	// The registry did not tell all, does not know HEAD, or says why not only to a GET.
	mediaType, body, err := e.document(ctx, req)
	if err != nil {
		return Resolved{}, err
	}
	found := image.Describe(mediaType, body)
	if d != "" {
		found.Digest = d
		if err := image.Verify(found, body); err != nil {
			return Resolved{}, fmt.Errorf("%s: %w", e.URL.Host, err)
		}
	}
	return Resolved{found, body}, nil
}

// final tells whether a GET would say no more than the HEAD did.
func final(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsUnavailable(err)
}

// describe reads what the headers of an answer say of the document, if that is enough.
func describe(resp *http.Response) (image.Descriptor, bool) {
	d := image.Descriptor{
		MediaType: mediaType(resp),
		Digest:    digest.Digest(resp.Header.Get("Docker-Content-Digest")),
		Size:      resp.ContentLength,
	}
	return d, d.MediaType != "" && d.MediaType != "text/html" && d.Size > 0 && image.CheckDigest(d.Digest) == nil
}

func mediaType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// document fetches a manifest or an index. Its bytes match the digest that the host says they
// have, if it says so.
func (e *endpoint) document(ctx context.Context, req request) (string, []byte, error) {
	req.method = http.MethodGet
	resp, err := e.send(ctx, req)
	if err != nil {
		return "", nil, err
	}
	body, err := e.read(resp, req.what)
	if err != nil {
		return "", nil, err
	}
	if said := digest.Digest(resp.Header.Get("Docker-Content-Digest")); said != "" {
		err := image.Verify(image.Descriptor{Digest: said, Size: int64(len(body))}, body)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %s is not what its header says: %w", e.URL.Host, req.what, err)
		}
	}
	return mediaType(resp), body, nil
}

// read takes the body of an answer that is a document, and closes it.
func (e *endpoint) read(resp *http.Response, what string) ([]byte, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, answered(resp, what)
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or is of no use
	if mediaType(resp) == "text/html" {
		return nil, errHTML(resp, what)
	}
	if resp.ContentLength > image.MaxDocument {
		return nil, tooLarge(what, resp.ContentLength)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxDocument+1))
	if err != nil {
		return nil, e.broken(err, what)
	}
	if len(body) > image.MaxDocument {
		return nil, tooLarge(what, int64(len(body)))
	}
	return body, nil
}

func tooLarge(what string, size int64) error {
	return fmt.Errorf("%s has at least %d bytes where at most %d are read: %w", what, size, image.MaxDocument, errdefs.ErrInvalidArgument)
}

func errHTML(resp *http.Response, what string) error {
	return fmt.Errorf("%s answered with a web page instead of %s, as proxies and login pages do: %w", resp.Request.URL.Host, what, errdefs.ErrUnavailable)
}
