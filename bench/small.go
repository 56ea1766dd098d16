package main

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
)

// Small images come in families, whose first layers are the same. An image adds, with its config and
// manifest, 25 blobs on average to those that are there.
const (
	smallImages  = 2000
	smallFamily  = 5
	sharedLayers = 5
	ownLayers    = 22
	smallBlobs   = 2 + ownLayers + sharedLayers/smallFamily
)

func smallName(i int) string { return fmt.Sprintf("example.com/bench/small:%04d", i) }

// smallArchive is an OCI archive of many small images.
func (b *bench) smallArchive() (string, error) {
	name := filepath.Join(b.kept(), "small-families.tar")
	return name, once(name, func(part string) error {
		fmt.Fprintf(os.Stderr, "bench: making an archive of %d images\n", smallImages)
		file, err := os.Create(part)
		if err != nil {
			return err
		}
		return errors.Join(writeSmall(file, 0), file.Close())
	})
}

// writeSmall writes an archive of the smallImages images from first on, its entries in the order in
// which tar packs a layout's folder.
func writeSmall(to io.Writer, first int) error {
	out := bufio.NewWriterSize(to, 1<<20)
	w := tar.NewWriter(out)
	list := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for i := first; i < first+smallImages; i++ {
		root, err := writeSmallImage(w, i)
		if err != nil {
			return err
		}
		root.Annotations = map[string]string{
			v1.AnnotationRefName:       fmt.Sprintf("%04d", i),
			"io.containerd.image.name": smallName(i),
		}
		list.Manifests = append(list.Manifests, root)
	}
	index, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return errors.Join(
		writeEntry(w, v1.ImageIndexFile, index),
		writeEntry(w, v1.ImageLayoutFile, []byte(`{"imageLayoutVersion":"`+v1.ImageLayoutVersion+`"}`)),
		w.Close(), out.Flush())
}

func writeSmallImage(w *tar.Writer, i int) (image.Descriptor, error) {
	var layers []imagetest.Tar
	for n := range sharedLayers {
		layers = append(layers, imagetest.Seeded(uint64(i/smallFamily*sharedLayers+n)|1<<32, 1<<10))
	}
	for n := range ownLayers {
		layers = append(layers, imagetest.Seeded(uint64(i*ownLayers+n), 1<<10))
	}
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.Plain, layers...)}.Build("")
	if err != nil {
		return image.Descriptor{}, err
	}
	for n, blob := range img.Blobs {
		if n < sharedLayers && i%smallFamily > 0 {
			continue // the first of the family brought it
		}
		body, err := blob.Bytes()
		if err != nil {
			return image.Descriptor{}, err
		}
		if err := writeEntry(w, "blobs/sha256/"+blob.Digest.Encoded(), body); err != nil {
			return image.Descriptor{}, err
		}
	}
	return img.Root, nil
}

func writeEntry(w *tar.Writer, name string, body []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}
