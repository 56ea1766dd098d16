package metadata_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stowage/stowage/internal/metadata"
)

// TestSources has a blob come from one repository after the other: the label lists each once, the
// newest last, and drops the oldest when it is full.
func TestSources(t *testing.T) {
	s := newStore(t)
	const registry = "example.com"
	key := metadata.SourceLabel + registry
	come := func(registry, repo string) {
		t.Helper()
		b := blob("a")
		b.Labels = map[string]string{metadata.SourceLabel + registry: repo}
		if _, err := s.Apply(t.Context(), ns, metadata.Batch{Blobs: []metadata.Blob{b}}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(registry string) string {
		t.Helper()
		b, err := s.Blob(t.Context(), ns, desc("a").Digest)
		if err != nil {
			t.Fatal(err)
		}
		return b.Labels[metadata.SourceLabel+registry]
	}
	for _, step := range []struct{ repo, want string }{
		{"team/a", "team/a"}, {"b", "team/a,b"}, {"b", "team/a,b"}, {"team/a", "b,team/a"}, {"team/ab", "b,team/a,team/ab"},
	} {
		if come(registry, step.repo); list(registry) != step.want {
			t.Errorf("after %s: got %q, want %q", step.repo, list(registry), step.want)
		}
	}
	come("other.example.com", "c")
	if got := list("other.example.com"); got != "c" || list(registry) != "b,team/a,team/ab" {
		t.Errorf("from another registry: got %q and %q", got, list(registry))
	}

	const limit = 4096 // of key and value, as containerd has it
	long := strings.Repeat("x", 100)
	for i := range 60 {
		come(registry, fmt.Sprint(long, i))
	}
	got := list(registry)
	if repos := strings.Split(got, ","); len(key)+len(got) > limit || len(key)+len(got) < limit-200 || repos[len(repos)-1] != long+"59" || len(repos[0]) != len(long)+2 {
		t.Errorf("the full list has %d bytes: %q", len(got), got)
	}
}
