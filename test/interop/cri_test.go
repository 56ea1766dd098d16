package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// crictl and critest are of kubernetes-sigs/cri-tools, whose `make crictl critest` builds them:
//
//	STOWAGE_CRICTL   crictl
//	STOWAGE_CRITEST  critest
func TestCrictl(t *testing.T) {
	crictl := peer(t, "STOWAGE_CRICTL")
	if crictl == "" {
		return
	}
	stowage := build(t)
	c := clients{scripts: "crictl", programs: map[string]string{"crictl": crictl, "stowage": stowage}}
	c.run(t, stowageDaemon(stowage, os.DevNull))
}

// Kubernetes' own checks of an image service pass. The names of their images are fixed, and a hosts
// file leads to a registry here. So is one digest, of an image that only the network has: a copy of
// the program has that of one of ours in its place.
func TestCritest(t *testing.T) {
	critest := peer(t, "STOWAGE_CRITEST")
	if critest == "" {
		return
	}
	reg, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	dir, err := os.MkdirTemp("", "critest") // the path of a socket is limited to 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	digested, err := critestImages(t.Context(), reg.Host)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(critest)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(program, []byte(critestDigest)); n == 0 {
		t.Fatalf("%s has no image %s: it is of another release", critest, critestDigest)
	}
	copied := filepath.Join(dir, "critest")
	if err := os.WriteFile(copied, bytes.ReplaceAll(program, []byte(critestDigest), []byte(digested)), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gcr.io", "registry.k8s.io", "k8s.gcr.io"} {
		folder := filepath.Join(dir, "certs.d", name)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "hosts.toml"), fmt.Appendf(nil, "server = 'http://%s'\n", reg.Host), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "hosts_dirs = ['%s']\n", filepath.Join(dir, "certs.d")), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, stop, err := stowageDaemon(build(t), config).start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.CommandContext(t.Context(), copied, "-runtime-endpoint", "unix://"+socket, "-image-endpoint", "unix://"+socket,
		"-ginkgo.focus", "Image Manager|Image Consistency", "-ginkgo.no-color")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("critest: %v\n%s", err, out)
	}
	ran := regexp.MustCompile(`Ran (\d+) of \d+ Specs`).FindSubmatch(out)
	if ran == nil {
		t.Fatalf("critest does not say what it ran:\n%s", out)
	}
	if n, err := strconv.Atoi(string(ran[1])); err != nil || n < 13 {
		t.Errorf("critest ran %s, want 13 and more", ran[1])
	}
}

// critestDigest is that of the image that critest pulls by digest.
const critestDigest = "sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"

// critestImages fills a registry with what critest asks for, and gives the digest of the image that
// it pulls by that.
func critestImages(ctx context.Context, host string) (digested string, err error) {
	seed := uint64(0)
	for _, want := range []struct {
		repo string
		tags []string // of one image
		user string
	}{
		{"test-image-latest", []string{"latest"}, ""},
		{"test-image-tag", []string{"test"}, ""},
		{"test-image-tag", []string{"all"}, ""},
		{"test-image-1", []string{"latest"}, ""},
		{"test-image-2", []string{"latest"}, ""},
		{"test-image-3", []string{"latest"}, ""},
		{"test-image-tags", []string{"1", "2", "3"}, ""},
		{"test-image-user-uid", []string{"latest"}, "1002"},
		{"test-image-user-username", []string{"latest"}, "www-data"},
		{"test-image-user-uid-group", []string{"latest"}, "1003:users"},
		{"test-image-user-username-group", []string{"latest"}, "www-data:100"},
		{"pause", []string{"3.9"}, ""},
		{"test-image-digest", []string{"latest"}, ""}, // the last
	} {
		seed++
		img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Gzip, imagetest.Seeded(seed, 64<<10)), User: want.user}.Build("")
		if err != nil {
			return "", err
		}
		repo := "k8s-staging-cri-tools/" + want.repo
		if want.repo == "pause" {
			repo = want.repo
		}
		for _, tag := range want.tags {
			if err := imagetest.Push(ctx, host, repo, tag, img); err != nil {
				return "", err
			}
		}
		digested = img.Root.Digest.String()
	}
	return digested, nil
}
