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

// The images that the cases pull and leave packed.
const (
	sixLayers  = "six"  // some 230 MB, of the machine's files
	tinyLayers = "tiny" // twelve layers of 4 KiB
	oneLayer   = "big"  // one layer of 1 GB, of the machine's files

	pushImage   = "half"  // six layers, some 500 MB, of the machine's files
	fortyLayers = "forty" // forty layers of 4 KiB
)

// The images that the cases pull and unpack, of Debian's packages.
const (
	appImage   = "app"      // six layers, 240 MB; unpacked 25,000 files, 680 MB
	zstdImage  = "app-zstd" // the same
	largeImage = "large"    // two layers, 1.5 GB; unpacked 3 GB
	metaImage  = "meta"     // twelve layers of a few KB
	filesImage = "files"    // one layer, 125 MB; unpacked 67,000 files, 690 MB
)

// layersOf lists the packages in each layer of an image.
func layersOf(name string) [][]string {
	switch name {
	case appImage, zstdImage:
		return [][]string{
			{"libreoffice-core", "libreoffice-common", "gcc-12"},
			{"golang-1.19-src"},
			{"python3-numpy", "python3-scipy", "python3-matplotlib", "python3-pandas", "python3-sympy"},
			{"git", "perl-modules-5.36", "vim-runtime"},
			{"fonts-noto-core"},
			{"emacs-el", "npm"},
		}
	case largeImage:
		return [][]string{
			{"emscripten", "racket", "firefox-esr", "thunderbird"},
			{"supertuxkart-data", "coq", "agda-stdlib"},
		}
	case filesImage:
		return [][]string{
			{"rust-src", "golang-1.19-src", "openjdk-17-doc", "texlive-latex-extra", "emacs-el", "gnome-icon-theme"},
		}
	case metaImage:
		return [][]string{
			{"build-essential"},
			{"gcc"},
			{"g++"},
			{"cpp"},
			{"gfortran"},
			{"golang"},
			{"ruby"},
			{"python3-minimal"},
			{"default-jre"},
			{"default-jdk"},
			{"fonts-dejavu"},
			{"linux-headers-amd64"},
		}
	}
	return nil
}

// tars makes the layers of an image of the machine's files. Files of programs shrink to some two
// fifths.
func tars(name string) ([]imagetest.Tar, error) {
	const mb = 1 << 20
	switch name {
	case sixLayers:
		return imagetest.Machine(277*mb, 185*mb, 92*mb, 69*mb, 46*mb, 23*mb)
	case oneLayer:
		return imagetest.Machine(2500 * mb)
	case pushImage:
		return imagetest.Machine(600*mb, 400*mb, 200*mb, 150*mb, 100*mb, 50*mb)
	}
	var tiny []imagetest.Tar
	for seed := range map[string]uint64{tinyLayers: 12, fortyLayers: 40}[name] {
		tiny = append(tiny, imagetest.Seeded(seed, 4<<10))
	}
	return tiny, nil
}

// image makes sure that the registry has an image, and returns its reference.
func (b *bench) image(ctx context.Context, name string) (string, error) {
	reference := b.host + "/bench/" + name + ":1"
	return reference, once(filepath.Join(b.kept(), name+".pushed"), func(part string) error {
		fmt.Fprintf(os.Stderr, "bench: making the image %s\n", name)
		dir, err := os.MkdirTemp(b.work(), "make-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }() // the work folder goes at the end
		var size int64
		if layers := layersOf(name); layers != nil {
			size, err = b.makePackaged(ctx, dir, name, layers)
		} else {
			size, err = b.makeMachine(ctx, dir, name)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "bench: image %s: %d MB\n", name, size>>20)
		return os.WriteFile(part, nil, 0o644)
	})
}

func (b *bench) makeMachine(ctx context.Context, dir, name string) (size int64, err error) {
	layers, err := tars(name)
	if err != nil {
		return 0, err
	}
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.GzipFast, layers...)}.Build(dir)
	if err != nil {
		return 0, err
	}
	return img.Size(), imagetest.Push(ctx, b.host, "bench/"+name, "1", img)
}

// once makes a file or a folder to keep, unless an earlier bench did. It has another name until it
// is whole.
func once(path string, makeAt func(part string) error) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	part := path + ".part"
	if err := errors.Join(os.RemoveAll(part), makeAt(part)); err != nil {
		return err
	}
	return os.Rename(part, path)
}
