package layer_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stowage/stowage/internal/layer"
)

// An ACL in a form that layers do not have is told of, though losses are refused: nobody could
// keep it.
func TestTextACL(t *testing.T) {
	tar := archive(file("f", "").with("SCHILY.acl.access", "user::rw-,group::r--,other::r--"))
	losses := applyTo(t, tar, t.TempDir(), layer.Options{}).Losses
	if len(losses) != 1 || losses[0].Kind != layer.LostXattr || !strings.Contains(losses[0].Detail, "text") {
		t.Errorf("losses %v, want the ACL", losses)
	}
}

// A marker may be longer than a name, for it hides a name as long as names can be.
func TestLongestMarker(t *testing.T) {
	name := strings.Repeat("x", 255)
	got := applyTo(t, archive(file(".wh."+name, "")), t.TempDir(), layer.Options{Form: layer.Overlay}).Needs.Whiteouts
	if !slices.Equal(got, []string{name}) {
		t.Errorf("whiteouts %q, want the name", got)
	}
}
