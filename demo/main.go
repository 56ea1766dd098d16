// Demo shows stowage's main job: it pulls images, checks, mounts, exports and removes one, and imports it
// again, printing each command as one would type it. make demo runs it.
//
// Without an argument it serves two images of its own from a registry on loopback. Their layers
// are the same once decompressed, and share no compressed byte: a store that mistakes the one for
// the other loses the second image. An argument names a public image to take in their place.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, names []string) (err error) {
	binary, err := filepath.Abs("bin/stowage")
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "stowage-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	dir := filepath.Join(temp, "work")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}

	if len(names) == 0 {
		server, err := registrytest.New(registrytest.Options{Dir: filepath.Join(temp, "registry")})
		if err != nil {
			return err
		}
		defer func() { _ = server.Close() }() // its folder goes with it
		fmt.Printf("A registry on %s is being filled with two images made of this machine's files.\n\n", server.Host)
		if names, err = fill(ctx, server.Host, filepath.Join(temp, "images")); err != nil {
			return err
		}
	}
	last := names[len(names)-1]
	t := terminal{binary: binary, dir: dir, root: filepath.Join(temp, "store")}
	for _, name := range names {
		t.stowage(ctx, "pull", name)
	}
	t.stowage(ctx, "images")
	t.stowage(ctx, "image", "check")
	if os.Geteuid() == 0 { // others would need a user namespace to mount
		t.stowage(ctx, "image", "mount", last, "mnt")
		t.stowage(ctx, "image", "usage", last)
		t.stowage(ctx, "image", "unmount", "mnt")
	}
	t.stowage(ctx, "save", "-o", "image.tar", last)
	t.stowage(ctx, "rmi", last)
	t.stowage(ctx, "content", "prune")
	t.stowage(ctx, "images")
	t.stowage(ctx, "load", "-i", "image.tar")
	t.stowage(ctx, "image", "check", "--verify")
	if t.err != nil {
		return t.err
	}
	if len(names) > 1 {
		fmt.Println("Shown: two images that share their uncompressed layers were pulled, each with all of its own\n" +
			"blobs, and unpacked once; the second was exported, removed, imported again from its archive, and is complete.")
	} else {
		fmt.Println("Shown: an image was pulled, unpacked, exported, removed, imported again from its archive, and is complete.")
	}
	return nil
}

// fill makes two images with the same diffIDs under other digests, and pushes them to host.
func fill(ctx context.Context, host, dir string) ([]string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	tars, err := imagetest.Machine(12<<20, 4<<20, 1<<20)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, made := range []struct {
		name string
		how  imagetest.Compression
	}{
		{"demo/first", imagetest.Gzip},
		{"demo/second", imagetest.Zstd},
	} {
		img, err := imagetest.Spec{Layers: imagetest.Layers(made.how, tars...)}.Build(dir)
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", made.name, err)
		}
		if err := imagetest.Push(ctx, host, made.name, "1", img); err != nil {
			return nil, err
		}
		names = append(names, host+"/"+made.name+":1")
	}
	return names, nil
}

// A terminal runs commands until the first that fails.
type terminal struct {
	binary, dir, root string
	err               error
}

func (t *terminal) stowage(ctx context.Context, args ...string) {
	if t.err != nil {
		return
	}
	line := "stowage " + strings.Join(args, " ")
	fmt.Println("$", line)
	cmd := exec.CommandContext(ctx, t.binary, args...)
	cmd.Dir = t.dir
	cmd.Env = append(os.Environ(), "STOWAGE_ROOT="+t.root)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.err = fmt.Errorf("%s: %w", line, err)
	}
	fmt.Println()
}
