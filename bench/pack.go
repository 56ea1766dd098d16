package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stowage/stowage/internal/imagetest"
	"github.com/stowage/stowage/internal/registry/registrytest"
)

// A compressor is a program that layers go through. Programs, because what gzip itself writes is
// what inflaters are tuned for.
type compressor struct {
	command   []string
	mediaType string
}

func compressorOf(name string) compressor {
	if name == zstdImage {
		return compressor{[]string{"zstd", "-3", "-q", "-c"}, v1.MediaTypeImageLayerZstd}
	}
	return compressor{[]string{"gzip", "-6", "-n", "-c"}, v1.MediaTypeImageLayerGzip}
}

// makePackaged pushes an image of packages. Its layers are made in dir, side by side.
func (b *bench) makePackaged(ctx context.Context, dir, name string, layers [][]string) (size int64, err error) {
	registry := registrytest.Registry{Host: b.host}
	repo := "bench/" + name
	diffIDs := make([]digest.Digest, len(layers))
	manifest := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Layers: make([]v1.Descriptor, len(layers)),
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i, names := range layers {
		files, err := b.packages(ctx, names)
		if err != nil {
			return 0, errors.Join(err, group.Wait())
		}
		group.Go(func() (err error) {
			manifest.Layers[i], diffIDs[i], err = pushLayer(groupCtx, registry, repo, dir, packed(groupCtx, files), compressorOf(name))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	config, err := json.Marshal(v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		Config:   v1.ImageConfig{Cmd: []string{"/bin/sh"}},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: diffIDs},
	})
	if err != nil {
		return 0, err
	}
	manifest.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Size: int64(len(config))}
	if manifest.Config.Digest, err = registry.PushBlob(ctx, repo, config); err != nil {
		return 0, err
	}
	body, err := json.Marshal(manifest)
	if err != nil {
		return 0, err
	}
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return size, registry.PushManifest(ctx, repo, "1", manifest.MediaType, body)
}

// pushLayer compresses one layer into dir, as its digest must be known before it is pushed.
func pushLayer(ctx context.Context, registry registrytest.Registry, repo, dir string, layer imagetest.Tar, how compressor) (v1.Descriptor, digest.Digest, error) {
	file, err := os.CreateTemp(dir, "layer-*")
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	defer func() { _ = errors.Join(file.Close(), os.Remove(file.Name())) }() // pushed, or of no use
	diffID, layerDigest := digest.Canonical.Digester(), digest.Canonical.Digester()
	compress := exec.CommandContext(ctx, how.command[0], how.command[1:]...)
	compress.Stdout = io.MultiWriter(file, layerDigest.Hash())
	compress.Stderr = os.Stderr
	stdin, err := compress.StdinPipe()
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	if err := compress.Start(); err != nil {
		return v1.Descriptor{}, "", err
	}
	err = layer(io.MultiWriter(stdin, diffID.Hash()))
	if err := errors.Join(err, stdin.Close(), compress.Wait()); err != nil {
		return v1.Descriptor{}, "", fmt.Errorf("make a layer: %w", err)
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return v1.Descriptor{}, "", err
	}
	d := v1.Descriptor{MediaType: how.mediaType, Digest: layerDigest.Digest(), Size: size}
	return d, diffID.Digest(), registry.PushBlobFrom(ctx, repo, d.Digest, size, file)
}
