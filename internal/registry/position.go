package registry

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

func what(d image.Descriptor, repo string) string { return "blob " + d.Digest.String() + " of " + repo }

func blobRequest(repo string, d image.Descriptor) request {
	return request{repo: repo, path: "blobs/" + d.Digest.String(), what: what(d, repo)}
}

func tooLong(e *endpoint, d image.Descriptor) error {
	return fmt.Errorf("%s has more than the %d bytes of %s: %w", e.URL.Host, d.Size, d.Digest, errdefs.ErrDataLoss)
}

// errRange is an answer to a request for a part of a blob that does not give that part.
var errRange = fmt.Errorf("it does not give the part of a blob that is asked for: %w", errdefs.ErrDataLoss)

// blob asks one host for the span that b has left, and tells where the answer ends.
func (e *endpoint) blob(b *blob) (io.ReadCloser, int64, error) {
	req := blobRequest(b.repo, b.d)
	req.method = http.MethodGet
	switch {
	case b.end < b.d.Size:
		req.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", b.offset, b.end-1)}}
	case b.offset > 0:
		req.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", b.offset)}}
	}
	resp, err := e.send(b.ctx, req)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return nil, 0, answered(resp, req.what)
	}
	end, err := e.position(resp, b, req.what)
	if err != nil {
		_ = resp.Body.Close() // what it brings is not wanted
		return nil, 0, err
	}
	return resp.Body, end, nil
}

// position sees to it that the next byte of the answer is the one at b's offset, and finds out where
// it ends.
func (e *endpoint) position(resp *http.Response, b *blob, what string) (end int64, err error) {
	if mediaType(resp) == "text/html" && b.d.MediaType != "text/html" {
		return 0, errHTML(resp, what)
	}
	at, total := int64(0), b.d.Size
	if resp.StatusCode == http.StatusPartialContent {
		var ok bool
		if at, total, ok = readRange(resp.Header.Get("Content-Range")); !ok || at != b.offset {
			return 0, fmt.Errorf("%s was asked for %s from byte %d and answered with range %q: %w",
				e.URL.Host, what, b.offset, oneLine(resp.Header.Get("Content-Range")), errRange)
		}
	}
	length := resp.ContentLength
	if total > b.d.Size || length > b.d.Size-at {
		return 0, tooLong(e, b.d)
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && coding != "identity" && length != b.end-at && length != b.d.Size-at {
		// Some say so of blobs that are stored packed. Their length gives the others away.
		return 0, fmt.Errorf("%s packed %s as %s for the way, where the bytes are wanted as they are stored: %w",
			e.URL.Host, what, oneLine(coding), errdefs.ErrDataLoss)
	}
	end = b.end
	if resp.StatusCode == http.StatusOK || length > end-at {
		end = b.d.Size
	}
	if b.ahead && end != b.end || b.ahead && at != b.offset {
		return 0, fmt.Errorf("%s: %s: %w", e.URL.Host, what, errRange)
	}
	// A server that does not know ranges sends all of it again.
	if _, err := io.CopyN(io.Discard, resp.Body, b.offset-at); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, e.broken(err, what)
	}
	return end, nil
}

// readRange reads the first position of a Content-Range, and the size of the whole, which is
// negative if it is not told.
func readRange(v string) (first, total int64, ok bool) {
	v, ok = strings.CutPrefix(v, "bytes ")
	if !ok {
		return 0, 0, false
	}
	v, whole, _ := strings.Cut(v, "/")
	from, _, ok := strings.Cut(v, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	total, totalErr := strconv.ParseInt(whole, 10, 64)
	if totalErr != nil {
		total = -1
	}
	return first, total, ok && err == nil && first >= 0
}
