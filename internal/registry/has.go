package registry

import (
	"context"
	"net/http"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
)

// HasManifest tells whether the repository that r names has the manifest or index d, at the host
// that takes uploads. Errors are those of [Client.PushManifest].
func (c *Client) HasManifest(ctx context.Context, r ref.Reference, d image.Descriptor) (bool, error) {
	if err := image.CheckDescriptor(d); err != nil {
		return false, err
	}
	e, err := c.pushHost(r)
	if err != nil {
		return false, err
	}
	req := manifestRequest(r, d.Digest.String())
	req.scopes = e.pushScopes(r.Repository())
	var has bool
	err = c.persist(ctx, e, func() (err error) {
		has, err = e.has(ctx, req)
		return err
	})
	return has, err
}

// has sends a HEAD and tells whether the host has what it is about.
func (e *endpoint) has(ctx context.Context, req request) (bool, error) {
	req.method = http.MethodHead
	resp, err := e.send(ctx, req)
	if err != nil {
		return false, err
	}
	if resp.StatusCode == http.StatusOK {
		err := resp.Body.Close()
		if mediaType(resp) == "text/html" {
			err = errHTML(resp, req.what)
		}
		return err == nil, err
	}
	if err := answered(resp, req.what); !errdefs.IsNotFound(err) {
		return false, err
	}
	return false, nil
}
