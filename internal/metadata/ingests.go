package metadata

import (
	"context"
	"strings"

	"github.com/stowage/stowage/internal/content"
)

// IngestKey is the key, in the content store, of what clients of a namespace write under the name ref,
// of up to some 400 bytes. Digests are the keys of what the store itself brings; no two are the same.
// Errors: [errdefs.ErrInvalidArgument].
func IngestKey(ns, ref string) (string, error) {
	if err := CheckNamespace(ns); err != nil {
		return "", err
	}
	key := "@" + ns + "/" + ref
	if ref == "" {
		return "", invalid("an ingest needs a name")
	}
	return key, content.ValidateIngest(key, content.Want{})
}

// CutIngestKey is the inverse of [IngestKey]; ok is false for the keys of others.
func CutIngestKey(key string) (ns, ref string, ok bool) {
	rest, ok := strings.CutPrefix(key, "@")
	if !ok {
		return "", "", false
	}
	ns, ref, ok = strings.Cut(rest, "/")
	return ns, ref, ok && ref != "" && CheckNamespace(ns) == nil
}

// LeasedIngests are the keys of those that leases list.
func (s *Store) LeasedIngests(ctx context.Context) (map[string]bool, error) {
	leased := map[string]bool{}
	err := s.view(ctx, func(v view) error {
		live, _, err := s.leases(v)
		for _, l := range live {
			for _, ref := range l.Ingests {
				if key, err := IngestKey(l.namespace, ref); err == nil {
					leased[key] = true
				}
			}
		}
		return err
	})
	return leased, err
}
