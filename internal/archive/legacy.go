package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// A v1Image is what Docker before 1.10 kept of one layer: an image of its own, on top of its
// parent.
type v1Image struct {
	Parent          string          `json:"parent"`
	Created         json.RawMessage `json:"created"`
	Author          string          `json:"author"`
	Comment         string          `json:"comment"`
	Architecture    string          `json:"architecture"`
	OS              string          `json:"os"`
	DockerVersion   string          `json:"docker_version"`
	Config          json.RawMessage `json:"config"`
	ContainerConfig struct {
		Cmd []string `json:"Cmd"`
	} `json:"container_config"`
}

// A v1Config is the config that is made of a chain of them.
type v1Config struct {
	Architecture  string          `json:"architecture"`
	OS            string          `json:"os"`
	Created       json.RawMessage `json:"created,omitempty"`
	Author        string          `json:"author,omitempty"`
	DockerVersion string          `json:"docker_version,omitempty"`
	Config        json.RawMessage `json:"config,omitempty"`
	RootFS        v1RootFS        `json:"rootfs"`
	History       []v1History     `json:"history"`
}

type v1RootFS struct {
	Type    string         `json:"type"`
	DiffIDs []image.Digest `json:"diff_ids"`
}

type v1History struct {
	Created   json.RawMessage `json:"created,omitempty"`
	CreatedBy string          `json:"created_by,omitempty"`
	Author    string          `json:"author,omitempty"`
	Comment   string          `json:"comment,omitempty"`
}

// listLegacy lists the images of an archive by Docker before 1.10: repositories names the top
// layer of each, and every layer its parent. A config and a manifest are built.
func (a *reader) listLegacy(ctx context.Context) error {
	var repositories map[string]map[string]string // name, tag, layer
	if err := json.Unmarshal(a.kept[repositoriesName], &repositories); err != nil {
		return fmt.Errorf("%s: %w: %w", repositoriesName, err, errdefs.ErrInvalidArgument)
	}
	built := map[string]image.Descriptor{} // by top layer
	for _, name := range slices.Sorted(maps.Keys(repositories)) {
		for _, tag := range slices.Sorted(maps.Keys(repositories[name])) {
			top := repositories[name][tag]
			if _, ok := built[top]; !ok {
				target, err := a.legacyManifest(ctx, top)
				if err != nil {
					return fmt.Errorf("%s: %.200q: %w", repositoriesName, name+":"+tag, err)
				}
				built[top] = target
			}
			a.Images = append(a.Images, Entry{Name: a.normal(name + ":" + tag), Target: built[top]})
		}
	}
	return nil
}

// legacyManifest builds and stores config and manifest of the image whose top layer is id.
func (a *reader) legacyManifest(ctx context.Context, id string) (image.Descriptor, error) {
	chain, layers, err := a.legacyChain(id)
	if err != nil {
		return image.Descriptor{}, err
	}
	top := chain[len(chain)-1]
	config := v1Config{
		Architecture: top.Architecture, OS: top.OS, Created: top.Created,
		Author: top.Author, DockerVersion: top.DockerVersion, Config: top.Config,
		RootFS: v1RootFS{Type: "layers"},
	}
	if config.Architecture == "" {
		config.Architecture = "amd64"
	}
	if config.OS == "" {
		config.OS = "linux"
	}
	for i, l := range chain {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layers[i].Digest)
		config.History = append(config.History, v1History{
			Created: l.Created, Author: l.Author, Comment: l.Comment,
			CreatedBy: strings.Join(l.ContainerConfig.Cmd, " "),
		})
	}
	b, err := json.Marshal(config)
	if err != nil {
		return image.Descriptor{}, fmt.Errorf("build config: %w", err)
	}
	d := image.Describe(image.OCIConfig, b)
	if _, err := a.put(ctx, d.Digest, d.Size, bytes.NewReader(b)); err != nil {
		return image.Descriptor{}, fmt.Errorf("store config: %w", err)
	}
	return a.build(ctx, d, layers)
}

// legacyChain follows the parents of id down, and returns them lowest first.
func (a *reader) legacyChain(id string) ([]v1Image, []file, error) {
	var chain []v1Image
	var layers []file
	for id != "" {
		if len(chain) == maxChain {
			return nil, nil, fmt.Errorf("more than %d layers: %w", maxChain, errdefs.ErrInvalidArgument)
		}
		b, ok := a.kept[id+"/json"]
		if !ok {
			return nil, nil, fmt.Errorf("layer %.200q is listed, and is not in the archive: %w", id, errdefs.ErrDataLoss)
		}
		var l v1Image
		if err := image.DecodeStrict(b, image.MaxConfig, &l); err != nil {
			return nil, nil, fmt.Errorf("layer %.200q: %w", id, err)
		}
		f, err := a.find(id + "/layer.tar")
		if err != nil {
			return nil, nil, err
		}
		if f.packed != image.Uncompressed {
			// Docker never packed them, and the diffID of a packed layer is not known.
			return nil, nil, fmt.Errorf("layer %.200q is packed with %s: %w", id, f.packed, errdefs.ErrNotImplemented)
		}
		chain, layers = append(chain, l), append(layers, f)
		id = l.Parent
	}
	if len(chain) == 0 {
		return nil, nil, fmt.Errorf("it names no layer: %w", errdefs.ErrInvalidArgument)
	}
	slices.Reverse(chain)
	slices.Reverse(layers)
	return chain, layers, nil
}
