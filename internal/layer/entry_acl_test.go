package layer

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
)

// TestTextACL sees that an ACL in a form that layers do not have is told of, though losses are
// refused: nobody could keep it.
func TestTextACL(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"SCHILY.acl.access": "user::rw-,group::r--,other::r--"}}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	res, err := Apply(t.Context(), &b, t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Losses) != 1 || res.Losses[0].Kind != LostXattr || !strings.Contains(res.Losses[0].Detail, "text") {
		t.Errorf("losses %v, want the ACL", res.Losses)
	}
}

// TestLongestMarker hides a name as long as names can be.
func TestLongestMarker(t *testing.T) {
	name := strings.Repeat("x", maxName)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: marker + name, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	res, err := Apply(t.Context(), &b, t.TempDir(), Options{Form: Overlay})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Needs.Whiteouts) != 1 || res.Needs.Whiteouts[0] != name {
		t.Errorf("whiteouts %q, want the name", res.Needs.Whiteouts)
	}
}
