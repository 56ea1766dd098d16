package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A peer is another program that pulls and unpacks.
type peer struct {
	name      string // with its version, when it is here
	against   string // the snapshotter of stowage that is compared with it
	demanding bool   // stowage is to be so much faster; else the peer is there for orientation
	absent    bool
	step      step
}

// unpackPeers lists the peers and looks which of them are here: containerd where BENCH_CONTAINERD
// says, podman and skopeo on PATH.
func unpackPeers(ctx context.Context, image, reference string) ([]peer, error) {
	var peers []peer
	folder := os.Getenv("BENCH_CONTAINERD")
	for _, c := range containerds {
		p := peer{name: "containerd, " + c.how, against: "overlay", demanding: true, absent: folder == ""}
		if c.snapshotter == "erofs" {
			p.against = "erofs"
		}
		if !p.absent {
			var err error
			if p.name, err = c.version(ctx, folder); err != nil {
				return nil, err
			}
			p.step = c.step(folder, image, reference)
		}
		peers = append(peers, p)
	}
	for _, p := range []peer{{name: "podman", step: podmanPull(reference)}, {name: "skopeo", step: skopeoPull(reference)}} {
		p.against = "overlay"
		if _, err := exec.LookPath(p.name); err != nil {
			p.absent = true
		} else {
			version, err := said(ctx, 2, p.name, "--version")
			if err != nil {
				return nil, err
			}
			p.name += " " + version
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// podmanPull unpacks onto its overlay, with layers kept below dir until they are.
func podmanPull(reference string) step {
	return step{command: func(dir string) []string {
		return []string{
			"env", "TMPDIR=" + dir, "podman",
			"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "overlay",
			"pull", "-q", "--tls-verify=false", reference,
		}
	}}
}

// skopeoPull unpacks nothing.
func skopeoPull(reference string) step {
	return step{command: func(dir string) []string {
		return skopeo("docker://"+reference, "oci:"+filepath.Join(dir, "layout")+":1")
	}}
}

// skopeo copies from one place to another, with no signature policy to find.
func skopeo(from, to string) []string {
	return []string{"skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", from, to}
}

// said runs a program that tells its version and returns a word, from 0, of the first line.
func said(ctx context.Context, word int, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	words := strings.Fields(line)
	if len(words) <= word {
		return "", fmt.Errorf("%s said %q", strings.Join(args, " "), line)
	}
	return words[word], nil
}
