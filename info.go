package stowage

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
)

// ImageInfo describes one platform's image.
type ImageInfo struct {
	Name      string            `json:"name"`
	Digest    Digest            `json:"digest"`
	MediaType string            `json:"mediaType"`
	Platform  string            `json:"platform"`
	Size      int64             `json:"size"`
	State     State             `json:"state"`
	Layers    []LayerInfo       `json:"layers"`
	Config    json.RawMessage   `json:"config"`
	Manifest  json.RawMessage   `json:"manifest"`
	Labels    map[string]string `json:"labels"`
}

// LayerInfo describes one layer of an image. DiffID and ChainID are empty in an artifact.
type LayerInfo struct {
	Digest    Digest `json:"digest"`
	DiffID    Digest `json:"diffID"`
	ChainID   Digest `json:"chainID"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
	Present   bool   `json:"present"`
	Unpacked  bool   `json:"unpacked"`
}

// Info describes an image for one platform: the one given, or the host's, or, where that is not
// here, the first that is.
func (s *Store) Info(ctx context.Context, name string, platform *Platform) (*ImageInfo, error) {
	img, err := s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	p, err := pick(img, platform)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	info := &ImageInfo{
		Name: img.Name, Digest: img.Target.Digest, MediaType: img.Target.MediaType,
		Platform: image.FormatPlatform(p.Platform), Size: p.Size, State: p.State,
		Layers: []LayerInfo{}, Labels: img.Labels,
	}
	if info.Labels == nil {
		info.Labels = map[string]string{}
	}
	manifest, err := content.ReadBlob(ctx, s.content, p.Manifest.Digest, image.MaxDocument)
	if errdefs.IsNotFound(err) {
		return info, nil // the state says that it is not here
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	info.Manifest = manifest
	doc, err := image.ParseDocument(manifest)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	var diffs, chains []Digest
	if doc.Config != nil {
		raw, err := content.ReadBlob(ctx, s.content, doc.Config.Digest, image.MaxConfig)
		switch {
		case errdefs.IsNotFound(err):
		case err != nil:
			return nil, fmt.Errorf("image %s: %w", img.Name, err)
		case json.Valid(raw):
			info.Config = raw
			if c, err := image.ParseConfig(raw); err == nil && doc.IsImage() {
				diffs, chains = c.DiffIDs, image.ChainIDs(c.DiffIDs)
			}
		}
	}
	unpacked, err := s.unpacked(ctx, chains)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	for i, l := range doc.Layers {
		li := LayerInfo{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size}
		if len(diffs) == len(doc.Layers) {
			li.DiffID, li.ChainID = diffs[i], chains[i]
			li.Unpacked = i < unpacked
		}
		if b, err := s.content.Info(ctx, l.Digest); err == nil {
			li.Present = b.Size == l.Size
		} else if !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("image %s: %w", img.Name, err)
		}
		info.Layers = append(info.Layers, li)
	}
	return info, nil
}

// unpacked counts the layers, from the lowest, that a snapshotter has snapshots of: the one that
// has most.
func (s *Store) unpacked(ctx context.Context, chain []Digest) (int, error) {
	names, err := s.meta.Snapshotters(ctx, s.ns)
	if err != nil {
		return 0, err
	}
	most := 0
	for _, name := range names {
		for n := len(chain); n > most; n-- {
			_, err := s.meta.SnapshotChain(ctx, s.ns, name, chain[n-1].String())
			if err == nil {
				most = n
			} else if !errdefs.IsNotFound(err) {
				return 0, err
			}
		}
	}
	return most, nil
}

// pick chooses one of the platforms of an image.
func pick(img Image, want *Platform) (metadata.PlatformState, error) {
	if len(img.Platforms) == 0 {
		return metadata.PlatformState{}, fmt.Errorf("no manifest is here: %w", errdefs.ErrNotFound)
	}
	platforms := []Platform{image.Host()}
	if want != nil {
		platforms = []Platform{*want}
	}
	list := make([]Descriptor, len(img.Platforms))
	for i, p := range img.Platforms {
		list[i] = p.Manifest
		list[i].Platform = &p.Platform
	}
	chosen, err := image.Choose(platforms, list)
	if err == nil {
		for _, p := range img.Platforms {
			if p.Manifest.Digest == chosen[0].Digest {
				return p, nil
			}
		}
	}
	if want != nil {
		return metadata.PlatformState{}, err
	}
	for _, p := range img.Platforms {
		if p.State == Complete {
			return p, nil
		}
	}
	return img.Platforms[0], nil
}

// A TreeNode is a descriptor with what it points to.
type TreeNode struct {
	Place      string     `json:"place"` // image, manifest, config, layer, subject
	Descriptor Descriptor `json:"descriptor"`
	Present    bool       `json:"present"`
	Children   []TreeNode `json:"children,omitempty"`
}

// Inspect gives the tree of descriptors below an image.
func (s *Store) Inspect(ctx context.Context, name string) (Image, TreeNode, error) {
	img, err := s.find(ctx, name)
	if err != nil {
		return Image{}, TreeNode{}, err
	}
	t, err := image.ReadTree(ctx, img.Target, func(ctx context.Context, d Descriptor) ([]byte, error) {
		return content.ReadBlob(ctx, s.content, d.Digest, image.MaxDocument)
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return Image{}, TreeNode{}, fmt.Errorf("image %s: %w", img.Name, err)
	}
	var node func(place string, d Descriptor) (TreeNode, error)
	node = func(place string, d Descriptor) (TreeNode, error) {
		n := TreeNode{Place: place, Descriptor: d}
		info, err := s.content.Info(ctx, d.Digest)
		if err != nil && !errdefs.IsNotFound(err) {
			return n, err
		}
		n.Present = err == nil && info.Size == d.Size
		if t == nil || (place != "image" && place != string(image.PlaceManifest)) {
			return n, nil
		}
		doc := t.Document(d.Digest)
		if doc == nil {
			return n, nil
		}
		if doc.Subject != nil {
			n.Children = append(n.Children, TreeNode{Place: "subject", Descriptor: *doc.Subject})
		}
		for c := range doc.Children() {
			child, err := node(string(c.Place), c.Descriptor)
			if err != nil {
				return n, err
			}
			n.Children = append(n.Children, child)
		}
		return n, nil
	}
	n, err := node("image", img.Target)
	return img, n, err
}
