package metadata

import (
	"maps"
	"slices"
	"strings"
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
