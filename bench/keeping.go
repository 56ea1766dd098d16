package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The sizes of the stores that are kept, in images; each is 25 blobs.
const (
	keptImages  = smallImages
	grownImages = 10 * smallImages
)

// keptStore is a store of many small images, to be copied: it is never written to again.
func (b *bench) keptStore(ctx context.Context, images int) (string, error) {
	name := filepath.Join(b.kept(), fmt.Sprintf("keeping-%d", images))
	return name, once(name, func(part string) error {
		fmt.Fprintf(os.Stderr, "bench: making a store of %d images\n", images)
		for first := 0; first < images; first += smallImages {
			archive := filepath.Join(b.work(), "keeping.tar")
			file, err := os.Create(archive)
			if err != nil {
				return err
			}
			if err := errors.Join(writeSmall(file, first), file.Close()); err != nil {
				return err
			}
			if _, err := runProcess(ctx, b.stowage(part, none, "import", packedOnly, archive)); err != nil {
				return err
			}
			if err := os.Remove(archive); err != nil {
				return err
			}
		}
		return nil
	})
}

// An act is one command on a store of many small images, and what is asked of it.
type act struct {
	name    string
	limit   time.Duration
	peer    string          // what somebody else was seen to take, on two cores
	once    bool            // it cannot be done twice to one store
	reports bool            // it prints a report as JSON
	before  func() []string // not measured; may be nil
	command func() []string
}

// keeping measures what an installation with many images does all day, on the store that the issue
// asks for.
func keeping(ctx context.Context, b *bench) ([]result, error) {
	if b.keeping == nil {
		var err error
		if b.keeping, err = b.keepImages(ctx, keptImages); err != nil {
			return nil, err
		}
	}
	return b.keeping, nil
}

// grown shows how all of that grows with the store: ten times as large, at most twelve times as long.
func grown(ctx context.Context, b *bench) ([]result, error) {
	small, err := keeping(ctx, b)
	if err != nil {
		return nil, err
	}
	large, err := b.keepImages(ctx, grownImages)
	if err != nil {
		return nil, err
	}
	for i := range large {
		r := &large[i]
		r.limit, r.memory = 0, 12*maxPeak
		if r.asked == "" {
			r.peerName, r.peer, r.ratio = fmt.Sprintf("the same of %d", keptImages), small[i].ours, 12
		}
	}
	return large, nil
}

func (b *bench) keepImages(ctx context.Context, images int) (results []result, err error) {
	made, err := b.keptStore(ctx, images)
	if err != nil {
		return nil, err
	}
	root := filepath.Join(b.work(), "keeping")
	if _, err := runProcess(ctx, []string{"cp", "-a", made, root}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	on := func(args ...string) []string { return b.stowage(root, args...) }
	layer, err := b.layerOf(ctx, root, smallName(images-1))
	if err != nil {
		return nil, err
	}
	// Images are removed from the first on, a part of all of them at a time.
	next := 0
	remove := func(n int, args ...string) []string {
		args = append([]string{"rmi"}, args...)
		for range n {
			args = append(args, smallName(next))
			next++
		}
		return on(args...)
	}
	collect := func(args ...string) func() []string {
		return func() []string { return on(append([]string{"gc", "--format", "json"}, args...)...) }
	}
	database := filepath.Join(root, "metadata", "meta.db")
	var before int64
	pause := result{name: fmt.Sprintf("longest pause of the database in these, of %d", images), asked: "< 20ms", met: true}
	for _, a := range []act{
		{name: "images", limit: 100 * time.Millisecond, peer: "containerd 2.4: 2.6s", command: func() []string { return on("images") }},
		{name: "content ls", limit: 200 * time.Millisecond, peer: "containerd 2.4: 0.4s", command: func() []string { return on("content", "ls") }},
		{name: "why, of a layer", limit: 100 * time.Millisecond, command: func() []string { return on("why", layer) }},
		{name: "why, of an image", limit: 100 * time.Millisecond, command: func() []string { return on("why", smallName(images-1)) }},
		{
			name: "rmi --gc, of one image", limit: 100 * time.Millisecond, peer: "containerd 2.4: 0.49s",
			command: func() []string { return remove(1, "--gc") },
		},
		{name: "gc, of nothing", limit: time.Second, reports: true, command: collect()},
		{
			name: "gc, of one image in a hundred", limit: time.Second, reports: true,
			before: func() []string { return remove(images / 100) }, command: collect(),
		},
		{
			name: "gc, of half the images", once: true, reports: true,
			before: func() []string { return remove(images / 2) }, command: collect(),
		},
		{name: "gc --compact, after that", once: true, command: collect("--compact")},
	} {
		r := result{name: fmt.Sprintf("%s, of %d", a.name, images), limit: a.limit, peerName: a.peer}
		for run := 0; run == 0 || run < b.runs && !a.once; run++ {
			if before, err = fileSize(database); err != nil {
				return nil, err
			}
			var out bytes.Buffer
			s := step{command: func(string) []string { return a.command() }}
			if a.reports {
				s.out = &out
			}
			if a.before != nil {
				s.prepare = func(string) []string { return a.before() }
			}
			one, err := b.measure(ctx, b.folder, s)
			if err != nil {
				return nil, err
			}
			r.ours = append(r.ours, one)
			if a.reports {
				longest, err := longestPause(out.Bytes())
				if err != nil {
					return nil, err
				}
				pause.ours = append(pause.ours, sample{wall: longest, peak: one.peak})
				pause.met = pause.met && longest < 20*time.Millisecond
			}
		}
		results = append(results, r)
	}
	after, err := fileSize(database)
	compacted := result{
		name: fmt.Sprintf("meta.db of %d MB made smaller: %d MB", before>>20, after>>20),
		ours: results[len(results)-1].ours, asked: "smaller", met: after < before*3/4,
	}
	return append(results, pause, compacted), err
}

func fileSize(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// longestPause reads how long a collection kept the database to itself, at most.
func longestPause(report []byte) (time.Duration, error) {
	var r struct {
		Longest time.Duration `json:"longest"`
	}
	if err := json.Unmarshal(report, &r); err != nil {
		return 0, fmt.Errorf("report of a collection: %w", err)
	}
	return r.Longest, nil
}

// layerOf finds the topmost layer of an image.
func (b *bench) layerOf(ctx context.Context, root, image string) (string, error) {
	var out bytes.Buffer
	if _, err := runInto(ctx, &out, b.stowage(root, "image", "info", image)); err != nil {
		return "", err
	}
	var info struct {
		Layers []struct {
			Digest string `json:"digest"`
		} `json:"layers"`
	}
	if err := json.Unmarshal(out.Bytes(), &info); err != nil {
		return "", fmt.Errorf("image info %s: %w", image, err)
	}
	if len(info.Layers) == 0 {
		return "", fmt.Errorf("image %s has no layers", image)
	}
	return info.Layers[len(info.Layers)-1].Digest, nil
}
