package registrytest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
)

// A Registry is a registry spoken to over plain HTTP, without credentials, to fill it.
type Registry struct {
	Host string // address:port
}

// PushBlob stores body in repo under its sha256 digest, which it returns.
func (r Registry) PushBlob(ctx context.Context, repo string, body []byte) (digest.Digest, error) {
	d := digest.FromBytes(body)
	return d, r.PushBlobFrom(ctx, repo, d, int64(len(body)), bytes.NewReader(body))
}

// PushBlobFrom stores the size bytes of body, whose digest is d, without holding them in memory.
// A blob that the repository has is not sent again.
func (r Registry) PushBlobFrom(ctx context.Context, repo string, d digest.Digest, size int64, body io.Reader) error {
	base := "http://" + r.Host + "/v2/" + repo + "/blobs/"
	if resp, err := send(ctx, http.MethodHead, base+d.String(), "", 0, nil); err == nil && resp.StatusCode == http.StatusOK {
		return nil
	}
	resp, err := send(ctx, http.MethodPost, base+"uploads/", "", 0, nil)
	if err == nil && resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("registry answered %s", resp.Status)
	}
	if err != nil {
		return fmt.Errorf("begin upload of %s: %w", d, err)
	}
	target, err := resp.Location()
	if err != nil {
		return fmt.Errorf("begin upload of %s: %w", d, err)
	}
	query := target.Query()
	query.Set("digest", d.String())
	target.RawQuery = query.Encode()

	resp, err = send(ctx, http.MethodPut, target.String(), "application/octet-stream", size, body)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("registry answered %s", resp.Status)
	}
	if err != nil {
		return fmt.Errorf("upload %s: %w", d, err)
	}
	return nil
}

// PushManifest stores the exact bytes of a manifest or an index under reference, a tag or their
// digest.
func (r Registry) PushManifest(ctx context.Context, repo, reference, mediaType string, body []byte) error {
	target := "http://" + r.Host + "/v2/" + repo + "/manifests/" + url.PathEscape(reference)
	resp, err := send(ctx, http.MethodPut, target, mediaType, int64(len(body)), bytes.NewReader(body))
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("registry answered %s", resp.Status)
	}
	if err != nil {
		return fmt.Errorf("put manifest %s:%s: %w", repo, reference, err)
	}
	return nil
}

// send makes one request, of which only status and headers matter.
func send(ctx context.Context, method, target, mediaType string, size int64, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	if size == 0 && body != nil {
		req.Body = http.NoBody // or a length of zero would mean an unknown one
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	// The connection is used again only if its answer was read.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return resp, resp.Body.Close()
}
