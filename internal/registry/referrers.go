package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/rate"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry/hosts"
)

const (
	// maxReferrers is how many referrers one manifest may have.
	maxReferrers = 10_000
	// maxRewrites is how often a list of referrers is written that others write at the same time.
	maxRewrites = 5
)

// Referrers lists the manifests whose subject is the one with this digest, in the repository that r
// names: those that the registry's referrers API knows or, where it has none, those in the index
// under the tag that stands in for it. That there are none is no error. What the list says of them
// is not checked.
//
// Errors are those of [Client.Resolve]; [errdefs.ErrInvalidArgument] also when a list is malformed,
// leads in a circle, or has more than 10,000 entries.
func (c *Client) Referrers(ctx context.Context, r ref.Reference, subject image.Digest) ([]image.Descriptor, error) {
	if err := image.CheckDigest(subject); err != nil {
		return nil, err
	}
	list, err := c.endpoints(r, hosts.Referrers)
	if err != nil {
		return nil, err
	}
	var found []image.Descriptor
	err = c.try(ctx, r, hosts.Referrers, func(e *endpoint) (err error) {
		found, err = e.listReferrers(ctx, r, subject)
		if errdefs.IsNotFound(err) && e == list[len(list)-1] {
			return nil // a mirror may not have all, but this is the registry
		}
		return err
	})
	return found, err
}

// listReferrers asks one host. [errdefs.ErrNotFound] means that it knows of none.
func (e *endpoint) listReferrers(ctx context.Context, r ref.Reference, subject image.Digest) ([]image.Descriptor, error) {
	req := request{
		method: http.MethodGet, repo: r.Repository(), path: "referrers/" + subject.String(),
		what: "referrers of " + subject.String() + " in " + r.Repository(), header: http.Header{"Accept": {image.OCIIndex}},
	}
	var all []image.Descriptor
	seen := map[image.Digest]bool{}
	for {
		resp, err := e.send(ctx, req)
		if err != nil {
			return nil, err
		}
		if req.at == nil && !hasReferrersAPI(resp) {
			_ = resp.Body.Close() // what it says is of no interest
			_, doc, err := e.taggedReferrers(ctx, manifestRequest(r, referrersTag(subject)))
			if err != nil {
				return nil, err
			}
			return doc.Manifests, nil
		}
		body, next, err := e.page(resp, req.what)
		if err != nil {
			return nil, err
		}
		var index struct{ Manifests []image.Descriptor }
		if err := image.DecodeStrict(body, image.MaxDocument, &index); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", e.URL.Host, req.what, err)
		}
		for i := range index.Manifests {
			index.Manifests[i].Data = nil
			if err := image.CheckDescriptor(index.Manifests[i]); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", e.URL.Host, req.what, err)
			}
		}
		before := len(all)
		for _, d := range index.Manifests {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				all = append(all, d)
			}
		}
		if len(all) > maxReferrers {
			return nil, fmt.Errorf("%s: more than %d %s: %w", e.URL.Host, maxReferrers, req.what, errdefs.ErrInvalidArgument)
		}
		if next == nil {
			return all, nil
		}
		if len(all) == before {
			return nil, errCircle(e, req.what)
		}
		req.at = next
	}
}

// hasReferrersAPI tells from the answer of a host whether it was the referrers API that answered.
// Hosts without it say so in many ways, pages for people among them.
func hasReferrersAPI(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusOK:
		return mediaType(resp) == image.OCIIndex
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return false
	}
	return true
}

// referrersTag is the tag under which the referrers of d are listed where there is no referrers API,
// as the distribution specification makes it up.
func referrersTag(d image.Digest) string {
	algorithm, hex := d.Algorithm().String(), d.Encoded()
	return algorithm[:min(len(algorithm), 32)] + "-" + hex[:min(len(hex), 64)]
}

// taggedReferrers fetches the index that lists referrers.
func (e *endpoint) taggedReferrers(ctx context.Context, req request) ([]byte, *image.Document, error) {
	_, body, err := e.document(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	doc, err := image.ParseDocument(body)
	if err == nil && !doc.Index {
		err = fmt.Errorf("it is not an index: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %s, which lists referrers: %w", e.URL.Host, req.what, err)
	}
	return body, doc, nil
}

// referrer is the entry of d in a list of referrers.
func referrer(d image.Descriptor, doc *image.Document) image.Descriptor {
	entry := image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: doc.ArtifactType, Annotations: doc.Annotations}
	if entry.ArtifactType == "" && doc.Config != nil {
		entry.ArtifactType = doc.Config.MediaType
	}
	return entry
}

// addReferrer enters a manifest in the index that lists the referrers of subject. The protocol
// cannot change a tag only if it is still the same, so it is read again afterwards.
func (c *Client) addReferrer(ctx context.Context, e *endpoint, r ref.Reference, subject image.Digest, entry image.Descriptor) error {
	e.tagging.Lock()
	defer e.tagging.Unlock()
	tag := referrersTag(subject)
	req := manifestRequest(r, tag)
	req.scopes = e.pushScopes(r.Repository())
	for n := 0; ; n++ {
		body, doc := []byte(nil), &image.Document{MediaType: image.OCIIndex}
		err := c.persist(ctx, e, func() error {
			b, found, err := e.taggedReferrers(ctx, req)
			if err == nil {
				body, doc = b, found
			} else if errdefs.IsNotFound(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		if slices.ContainsFunc(doc.Manifests, func(d image.Descriptor) bool { return d.Digest == entry.Digest }) {
			return nil
		}
		switch {
		case n == maxRewrites:
			return fmt.Errorf("%s: %s lost its entry for %s each of %d times: %w", e.URL.Host, req.what, entry.Digest, n, errdefs.ErrUnavailable)
		case len(doc.Manifests) >= maxReferrers:
			return fmt.Errorf("%s: %s has %d entries already: %w", e.URL.Host, req.what, len(doc.Manifests), errdefs.ErrInvalidArgument)
		case n > 0:
			if err := rate.Wait(ctx, jitter(c.o.Backoff<<n)); err != nil {
				return err
			}
		}
		if body, err = enlist(body, entry); err != nil {
			return fmt.Errorf("%s: %s: %w", e.URL.Host, req.what, err)
		}
		err = c.persist(ctx, e, func() error {
			_, err := e.putManifest(ctx, r.Repository(), tag, doc.MediaType, body)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// enlist appends an entry to an index, which may be empty. What else there is in it stays.
func enlist(index []byte, entry image.Descriptor) ([]byte, error) {
	fields := map[string]json.RawMessage{"schemaVersion": json.RawMessage("2"), "mediaType": json.RawMessage(`"` + image.OCIIndex + `"`)}
	key := "manifests"
	var list []json.RawMessage
	if index != nil {
		clear(fields)
		if err := json.Unmarshal(index, &fields); err != nil {
			return nil, err
		}
		for name := range fields {
			if strings.EqualFold(name, key) {
				key = name // as readers in Go take it
			}
		}
		if err := json.Unmarshal(fields[key], &list); err != nil {
			return nil, err
		}
	}
	b, err := json.Marshal(entry)
	if err != nil {
		return nil, err
	}
	if fields[key], err = json.Marshal(append(list, b)); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}
