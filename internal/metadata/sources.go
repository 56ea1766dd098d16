package metadata

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// SourceLabel begins the key of a label; the name of a registry follows. The label lists repositories of
// that registry which a blob came from, with commas between them, as containerd has it. A [Batch] adds
// to the list: the newest is last, and the oldest are dropped when the label becomes too long.
const SourceLabel = "containerd.io/distribution.source."

// gain is [merge] for a blob that came once more.
func gain(old, labels map[string]string) map[string]string {
	labels = maps.Clone(labels)
	for k, v := range labels {
		if strings.HasPrefix(k, SourceLabel) && v != "" && old[k] != "" {
			labels[k] = addSources(old[k], v, maxLabel-len(k))
		}
	}
	return merge(old, labels)
}

// addSources puts repositories at the end of a list, which stays below limit bytes.
func addSources(list, repos string, limit int) string {
	added := strings.Split(repos, ",")
	all := slices.DeleteFunc(strings.Split(list, ","), func(repo string) bool { return repo == "" || slices.Contains(added, repo) })
	list = strings.Join(append(all, added...), ",")
	for len(list) > limit {
		_, list, _ = strings.Cut(list, ",")
	}
	return list
}

// Sources say where a blob that is not here may be had. What is nearest to it comes first.
type Sources struct {
	// From lists repositories that the blob is known to have come from, or else what holds it.
	From []Repository
	// Images names those that need it, of any namespace.
	Images []string
	// Document is set for what stands where manifests and indexes do.
	Document bool
	// Namespaces are those that know the blob, or did so, or whose images need it.
	Namespaces []string
}

// A Repository is one of a registry.
type Repository struct{ Registry, Name string }

// maxSources bounds the repositories and the images that are listed of one blob: some of those that a
// base layer is in are enough.
const maxSources = 32

// Sources finds out where a blob may be had: what was noted on it, also before it was lost, and then
// on what holds it, up to the images.
func (s *Store) Sources(ctx context.Context, d image.Digest) (found Sources, err error) {
	if err := checkDigests(d); err != nil {
		return found, err
	}
	err = s.view(ctx, func(v view) error {
		found = Sources{}
		return v.sources(d, &found)
	})
	return found, err
}

func (v view) sources(d image.Digest, found *Sources) error {
	namespaces, err := v.namespaces()
	if err != nil {
		return err
	}
	seen := map[image.Digest]bool{d: true}
	for queue := []image.Digest{d}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		err := v.labelsOf(at, namespaces, func(ns string, labels map[string]string) {
			if at == d {
				found.addNamespace(ns)
			}
			found.addLabels(labels)
		})
		if err != nil {
			return err
		}
		err = v.imagesOf(at, func(ns, name string) {
			found.Document = found.Document || at == d
			found.addNamespace(ns)
			if len(found.Images) < maxSources && !slices.Contains(found.Images, name) {
				found.Images = append(found.Images, name)
			}
		})
		if err != nil {
			return err
		}
		up := func(parent image.Digest) {
			if !seen[parent] {
				seen[parent] = true
				queue = append(queue, parent)
			}
		}
		err = v.parents(at, func(parent image.Digest, places []place) error {
			for _, p := range places {
				found.Document = found.Document || at == d && (p == placeSubject || p >= placeManifests && p%2 == placeManifests%2)
				if p != placeSubject {
					up(parent)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		// A referrer is where its subject is.
		doc, err := v.readDocument(at)
		if err != nil {
			return err
		}
		if doc != nil && doc.Subject != nil {
			up(doc.Subject.Digest)
		}
		if len(found.From) >= maxSources && len(found.Images) >= maxSources {
			break
		}
	}
	return nil
}

// labelsOf calls f with what each namespace says of a blob, or said before it was lost.
func (v view) labelsOf(d image.Digest, namespaces []Namespace, f func(ns string, labels map[string]string)) error {
	gone, _, err := v.gone(d)
	if err != nil {
		return err
	}
	for _, n := range namespaces {
		row, err := v.known(n.Name, d)
		switch {
		case err == nil:
			f(n.Name, row.Labels)
		case !errdefs.IsNotFound(err):
			return err
		default:
			if k, ok := gone.Known[n.Name]; ok {
				f(n.Name, k.Labels)
			}
		}
	}
	return nil
}

// addLabels adds the repositories that labels name: of each registry the latest first.
func (found *Sources) addLabels(labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		registry, ok := strings.CutPrefix(k, SourceLabel)
		if !ok {
			continue
		}
		for _, repo := range slices.Backward(strings.Split(labels[k], ",")) {
			from := Repository{registry, repo}
			if repo != "" && len(found.From) < maxSources && !slices.Contains(found.From, from) {
				found.From = append(found.From, from)
			}
		}
	}
}

func (found *Sources) addNamespace(ns string) {
	if !slices.Contains(found.Namespaces, ns) {
		found.Namespaces = append(found.Namespaces, ns)
	}
}
