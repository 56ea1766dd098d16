package metadata_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/metadata"
)

func TestIngestKey(t *testing.T) {
	for _, ref := range []string{"layer-sha256:0", "a/b", "../../etc", "@other/ref", strings.Repeat("r", 400)} {
		key, err := metadata.IngestKey("ns-1", ref)
		ns, back, ok := metadata.CutIngestKey(key)
		if err != nil || !ok || ns != "ns-1" || back != ref {
			t.Errorf("%q: got %q, %v, and back %q, %q, %v", ref, key, err, ns, back, ok)
		}
	}
	for _, c := range []struct{ ns, ref string }{{"ns", ""}, {"", "ref"}, {"a/b", "ref"}, {"..", "ref"}, {"ns", strings.Repeat("r", 600)}, {"ns", "\xff"}} {
		if key, err := metadata.IngestKey(c.ns, c.ref); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q in %q: got %q, %v, want %v", c.ref, c.ns, key, err, errdefs.ErrInvalidArgument)
		}
	}
	for _, key := range []string{"", "@", "@ns", "@ns/", "@/ref", "@a b/ref", "ns/ref", string(desc("l0").Digest)} {
		if ns, ref, ok := metadata.CutIngestKey(key); ok {
			t.Errorf("%q: got %q, %q, want that it is another's", key, ns, ref)
		}
	}
}
