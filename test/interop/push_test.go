package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stowage/stowage/internal/imagetest"
)

// TestSkopeoAndPush has skopeo read what is pushed and copied here, and the other way round.
func TestSkopeoAndPush(t *testing.T) {
	b := newBench(t)
	at := func(name string) string { return filepath.Join(b.dir, name) }
	inspect := func(where string, flags ...string) string {
		t.Helper()
		raw := b.run("skopeo", append(append([]string{"inspect", "--raw"}, flags...), where)...)
		file := at("raw.json")
		if err := os.WriteFile(file, []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(b.run("skopeo", "manifest-digest", file))
	}

	images := map[string]*imagetest.Image{"app:1": b.one, "redis:2.8.23": b.old, "multi:1": b.many}
	for name, img := range images {
		want := img.Root.Digest.String()
		from, pushed := b.host+"/"+name, b.host+"/pushed/"+name
		b.stowage("pull", "--all-platforms", from)
		b.stowage("push", from, pushed)
		if got := inspect("docker://"+pushed, "--tls-verify=false"); got != want {
			t.Errorf("%s was pushed as %s, want %s", name, got, want)
		}
		to := at(strings.ReplaceAll(name, ":", "-"))
		b.run("skopeo", "copy", "-q", "--all", "--src-tls-verify=false", "docker://"+pushed, "dir:"+to)

		// Ours, there: layouts and archives. By a tag, skopeo finds in them only what has the media types of OCI.
		tag := ":v1"
		if img == b.old {
			tag = ""
		}
		b.stowage("copy", "docker://"+from, "oci:"+to+"-layout:v1")
		if got := inspect("oci:" + to + "-layout" + tag); got != want {
			t.Errorf("%s is %s in the layout, want %s", name, got, want)
		}
		b.run("skopeo", "copy", "-q", "--all", "oci:"+to+"-layout"+tag, "dir:"+to+"-from-layout")
		b.stowage("copy", "docker://"+from, "oci-archive:"+to+".tar:v1")
		b.run("skopeo", "copy", "-q", "--all", "oci-archive:"+to+".tar"+tag, "dir:"+to+"-from-tar")
		b.stowage("copy", "--platform", "linux/amd64", "docker://"+from, "docker-archive:"+to+"-docker.tar:example.com/x:1")
		b.run("skopeo", "copy", "-q", "docker-archive:"+to+"-docker.tar:example.com/x:1", "dir:"+to+"-from-docker")
	}

	// Theirs, here.
	app, want := "docker://"+b.host+"/app:1", b.one.Root.Digest.String()
	b.run("skopeo", "copy", "-q", "--src-tls-verify=false", app, "oci:"+at("theirs")+":v1")
	b.run("skopeo", "copy", "-q", "--src-tls-verify=false", app, "oci-archive:"+at("theirs.tar")+":v1")
	for _, from := range []string{"oci:" + at("theirs") + ":v1", "oci-archive:" + at("theirs.tar") + ":v1", "oci-archive:" + at("theirs.tar")} {
		b.stowage("copy", from, "docker://"+b.host+"/theirs:1")
		if got := inspect("docker://"+b.host+"/theirs:1", "--tls-verify=false"); got != want {
			t.Errorf("%s came as %s, want %s", from, got, want)
		}
	}
	b.run("skopeo", "copy", "-q", "--src-tls-verify=false", app, "docker-archive:"+at("theirs-docker.tar")+":example.com/app:1")
	b.stowage("copy", "docker-archive:"+at("theirs-docker.tar"), "docker://"+b.host+"/docker:1")
	b.run("skopeo", "copy", "-q", "--src-tls-verify=false", "docker://"+b.host+"/docker:1", "dir:"+at("docker-back"))

	// Both add to one layout.
	b.run("skopeo", "copy", "-q", "--all", "--src-tls-verify=false", "docker://"+b.host+"/multi:1", "oci:"+at("theirs")+":many")
	b.stowage("copy", "docker://"+b.host+"/app:1", "oci:"+at("theirs")+":mine")
	for tag, img := range map[string]*imagetest.Image{"v1": b.one, "many": b.many, "mine": b.one} {
		if got := inspect("oci:" + at("theirs") + ":" + tag); got != img.Root.Digest.String() {
			t.Errorf("%s is %s in the shared layout, want %s", tag, got, img.Root.Digest)
		}
	}
}
