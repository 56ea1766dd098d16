package archive

import (
	"bytes"
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// A dockerImage is one element of docker's manifest.json. All but RepoTags are names of files.
type dockerImage struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"` // lowest first
}

// listDocker lists the images of manifest.json, for each of which a manifest is built.
func (a *reader) listDocker(ctx context.Context) error {
	var list []dockerImage
	if err := image.DecodeStrict(a.kept[manifestName], maxList, &list); err != nil {
		return fmt.Errorf("%s: %w", manifestName, err)
	}
	for i, img := range list {
		target, err := a.dockerManifest(ctx, img)
		if err != nil {
			return fmt.Errorf("%s: image %d: %w", manifestName, i, err)
		}
		var names []string
		for _, tag := range img.RepoTags {
			if name := a.normal(tag); name != "" {
				names = append(names, name)
			}
		}
		a.add(target, names)
	}
	return nil
}

// add lists an image under its names, or without one if it has none.
func (a *reader) add(target image.Descriptor, names []string) {
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		a.Images = append(a.Images, Entry{Name: name, Target: target})
	}
}

// dockerManifest builds and stores the manifest of an image. The config stays as it is; the
// layers are as the archive has them, packed or not.
func (a *reader) dockerManifest(ctx context.Context, img dockerImage) (image.Descriptor, error) {
	config, err := a.find(img.Config)
	if err != nil {
		return image.Descriptor{}, fmt.Errorf("config: %w", err)
	}
	layers := make([]file, len(img.Layers))
	for i, name := range img.Layers {
		if layers[i], err = a.find(name); err != nil {
			return image.Descriptor{}, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	if config.config != nil {
		if err := checkDiffIDs(config.config.DiffIDs, layers); err != nil {
			return image.Descriptor{}, err
		}
	}
	return a.build(ctx, config.Descriptor, layers)
}

// checkDiffIDs compares the layers of a docker archive with what the config says of them. What
// is packed is left to whoever unpacks it.
func checkDiffIDs(diffIDs []image.Digest, layers []file) error {
	if len(diffIDs) != len(layers) {
		return fmt.Errorf("%d layers where the config has %d: %w", len(layers), len(diffIDs), errdefs.ErrInvalidArgument)
	}
	for i, l := range layers {
		d := diffIDs[i]
		if l.packed == image.Uncompressed && d.Algorithm() == l.Digest.Algorithm() && d != l.Digest {
			return fmt.Errorf("layer %d hashes to %s where the config has %s: %w", i, l.Digest, d, errdefs.ErrDataLoss)
		}
	}
	return nil
}

// build makes a manifest, and a blob of it.
func (a *reader) build(ctx context.Context, config image.Descriptor, layers []file) (image.Descriptor, error) {
	config.MediaType = image.OCIConfig
	list := make([]image.Descriptor, len(layers))
	for i, l := range layers {
		list[i] = l.Descriptor
		var err error
		if list[i].MediaType, err = image.LayerType(l.packed); err != nil {
			return image.Descriptor{}, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	b, d, err := image.BuildManifest(config, list)
	if err != nil {
		return image.Descriptor{}, err
	}
	if _, err := a.put(ctx, d.Digest, d.Size, bytes.NewReader(b)); err != nil {
		return image.Descriptor{}, fmt.Errorf("store manifest: %w", err)
	}
	return d, nil
}
