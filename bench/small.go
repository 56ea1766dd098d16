package main

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/imagetest"
)

const (
	smallImages = 2000
	smallLayers = 23 // with config and manifest: 25 blobs an image, no two of them the same
)

func smallName(i int) string { return fmt.Sprintf("example.com/bench/small:%04d", i) }

// smallArchive is an OCI archive of many small images.
func (b *bench) smallArchive() (string, error) {
	name := filepath.Join(b.kept(), "small.tar")
	return name, once(name, func(part string) error {
		fmt.Fprintf(os.Stderr, "bench: making an archive of %d images\n", smallImages)
		file, err := os.Create(part)
		if err != nil {
			return err
		}
		out := bufio.NewWriter(file)
		return errors.Join(writeSmall(tar.NewWriter(out)), out.Flush(), file.Close())
	})
}

// writeSmall writes the entries in the order in which tar packs a layout's folder.
func writeSmall(w *tar.Writer) error {
	list := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for i := range smallImages {
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
		w.Close())
}

func writeSmallImage(w *tar.Writer, i int) (image.Descriptor, error) {
	var layers []imagetest.Tar
	for n := range smallLayers {
		layers = append(layers, imagetest.Seeded(uint64(i*smallLayers+n), 1<<10))
	}
	img, err := imagetest.Spec{Layers: imagetest.Layers(imagetest.GzipFast, layers...)}.Build("")
	if err != nil {
		return image.Descriptor{}, err
	}
	for _, blob := range img.Blobs {
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
