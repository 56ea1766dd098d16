package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
)

// verify reads stores beside sha256sum on the same files, the largest first, with as many processes
// as there are processors: many small blobs, large ones of all sizes, and one alone, which only
// one processor can read. openssl, where it is here, uses what processors have for it, as we do.
func verify(ctx context.Context, b *bench) ([]result, error) {
	small, err := b.keptStore(ctx, keptImages)
	if err != nil {
		return nil, err
	}
	const mb = 1 << 20
	large, err := b.randomStore("verify-large", 800*mb, 300*mb, 200*mb, 100*mb, 60*mb, 30*mb, 10*mb)
	if err != nil {
		return nil, err
	}
	one, err := b.randomStore("verify-one", 800*mb)
	if err != nil {
		return nil, err
	}
	var results []result
	for _, s := range []struct {
		root, name string
		batch      int // files a process
	}{{small, "50,000 small blobs", 500}, {large, "1.5 GB, seven blobs", 1}, {one, "800 MB, one blob", 1}} {
		list := filepath.Join(b.work(), "files")
		if err := listFiles(ctx, list, s.root); err != nil {
			return nil, err
		}
		if _, err := runProcess(ctx, []string{"xargs", "-a", list, "cat"}); err != nil { // into memory
			return nil, err
		}
		for _, cold := range []bool{false, true} {
			beside := func(hash ...string) step {
				return step{command: func(string) []string {
					return append([]string{"xargs", "-a", list, "-P", strconv.Itoa(runtime.NumCPU()), "-n", strconv.Itoa(s.batch)}, hash...)
				}}
			}
			steps := []step{
				{command: func(string) []string { return b.stowage(s.root, "content", "verify", "--all") }},
				beside("sha256sum"),
			}
			if _, err := exec.LookPath("openssl"); err == nil {
				steps = append(steps, beside("openssl", "dgst", "-sha256"))
			}
			name := "content verify --all, " + s.name
			if cold {
				name += ", not in memory"
				for i := range steps {
					steps[i].prepare = func(string) []string { return []string{"sh", "-c", "echo 3 >/proc/sys/vm/drop_caches"} }
				}
			}
			all, err := b.turns(ctx, b.folder, steps...)
			if err != nil {
				return nil, err
			}
			results = append(results, result{name: name, ours: all[0], peerName: "sha256sum", peer: all[1], ratio: 1 / 0.8})
			if len(all) > 2 {
				results = append(results, result{name: name, ours: all[0], peerName: "openssl dgst -sha256", peer: all[2]})
			}
		}
	}
	return results, nil
}

// randomStore is a store with blobs of these sizes, which no name leads to.
func (b *bench) randomStore(name string, sizes ...int64) (string, error) {
	root := filepath.Join(b.kept(), name)
	return root, once(root, func(part string) error {
		fmt.Fprintf(os.Stderr, "bench: making the blobs of %s\n", name)
		blobs := filepath.Join(part, "content", "blobs", "sha256")
		if err := os.MkdirAll(blobs, 0o755); err != nil {
			return err
		}
		for i, size := range sizes {
			if err := writeRandom(blobs, byte(i), size); err != nil {
				return err
			}
		}
		return nil
	})
}

// writeRandom makes a blob in a folder, which seed and size decide.
func writeRandom(dir string, seed byte, size int64) error {
	part := filepath.Join(dir, "part")
	file, err := os.Create(part)
	if err != nil {
		return err
	}
	h := sha256.New()
	random := io.LimitReader(rand.NewChaCha8([32]byte{seed}), size)
	_, err = io.Copy(io.MultiWriter(file, h), bufio.NewReaderSize(random, 1<<20))
	if err := errors.Join(err, file.Chmod(0o444), file.Close()); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(dir, fmt.Sprintf("%x", h.Sum(nil))))
}

// listFiles writes the names of a store's blobs to a file, the largest first.
func listFiles(ctx context.Context, list, root string) error {
	file, err := os.Create(list)
	if err != nil {
		return err
	}
	_, err = runInto(ctx, file, []string{
		"sh", "-c", `find "$1/content/blobs" -type f -printf '%s %p\n' | sort -rn | cut -d' ' -f2-`, "sh", root,
	})
	return errors.Join(err, file.Close())
}
