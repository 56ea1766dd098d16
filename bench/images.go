package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stowage/stowage/internal/imagetest"
)

// The images that the cases move.
const (
	sixLayers  = "six"  // some 230 MB, of the machine's files
	tinyLayers = "tiny" // twelve layers of 4 KiB
	oneLayer   = "big"  // one layer of 1 GB, of the machine's files
)

// tars makes the layers of an image. Files of programs shrink to some two fifths.
func tars(name string) ([]imagetest.Tar, error) {
	const mb = 1 << 20
	switch name {
	case sixLayers:
		return imagetest.Machine(277*mb, 185*mb, 92*mb, 69*mb, 46*mb, 23*mb)
	case oneLayer:
		return imagetest.Machine(2500 * mb)
	}
	var tiny []imagetest.Tar
	for seed := range uint64(12) {
		tiny = append(tiny, imagetest.Seeded(seed, 4<<10))
	}
	return tiny, nil
}

// image makes sure that the registry has an image, and returns its reference.
func (b *bench) image(ctx context.Context, name string) (string, error) {
	reference := b.host + "/bench/" + name + ":1"
	done := filepath.Join(b.kept(), name+".pushed")
	if _, err := os.Stat(done); !errors.Is(err, fs.ErrNotExist) {
		return reference, err
	}
	fmt.Fprintf(os.Stderr, "bench: making the image %s\n", name)
	layers, err := tars(name)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(b.work(), "make-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the work folder goes at the end
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.GzipFast, layers...)}.Build(dir)
	if err != nil {
		return "", err
	}
	if err := imagetest.Push(ctx, b.host, "bench/"+name, "1", img); err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "bench: image %s: %d MB\n", name, img.Size()>>20)
	return reference, os.WriteFile(done, nil, 0o644)
}
