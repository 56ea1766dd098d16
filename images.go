package stowage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/doctor"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/transfer"
)

// Pull brings an image from its registry into the store, whole, under the name that reference
// stands for. See [transfer.Pull].
func (s *Store) Pull(ctx context.Context, reference string, o PullOptions) (*PullResult, error) {
	r, err := ref.Parse(reference)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", reference, err)
	}
	return transfer.Pull(ctx, s.place(), s.reg, r, o)
}

// ExportOptions tunes [Store.Export]. The zero value exports the platforms that each image was
// pulled or imported for.
type ExportOptions struct {
	Choice
	Verify       bool // hash every blob again, also those that nothing touched since they were stored
	FetchMissing bool // get what is missing from the registry that the image's name points to
	Progress     ProgressSink
}

// Export writes images to w as an OCI layout tar that docker reads too. The same images give
// the same bytes every time. Images whose blobs are not all there are a *[MissingError].
func (s *Store) Export(ctx context.Context, w io.Writer, names []string, o ExportOptions) error {
	inner := transfer.ExportOptions{Choice: o.Choice, Verify: o.Verify, Progress: o.Progress}
	if o.FetchMissing {
		inner.Fetch = s.reg
	}
	full := make([]string, 0, len(names))
	for _, n := range names {
		img, err := s.find(ctx, n)
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		full = append(full, img.Name)
	}
	return transfer.Export(ctx, s.place(), w, full, inner)
}

// ExportFile is [Store.Export] to a file, which gets its name only when it is complete.
func (s *Store) ExportFile(ctx context.Context, file string, names []string, o ExportOptions) error {
	return transfer.WriteFile(file, s.nosync, func(w io.Writer) error { return s.Export(ctx, w, names, o) })
}

// Import reads images from an archive. See [transfer.Import].
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (*ImportResult, error) {
	return transfer.Import(ctx, s.place(), r, o)
}

// ImportFile is [Store.Import] from a file, or from the folder of an OCI layout.
func (s *Store) ImportFile(ctx context.Context, file string, o ImportOptions) (res *ImportResult, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	if info.IsDir() {
		return transfer.ImportDir(ctx, s.place(), file, o)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return s.Import(ctx, f, o)
}

// Images lists the images of the namespace by name.
func (s *Store) Images(ctx context.Context) ([]Image, error) { return s.meta.Images(ctx, s.ns) }

// Image finds an image by reference, by the digest of its root descriptor, or by a unique prefix
// of that of at least 6 digits.
func (s *Store) Image(ctx context.Context, name string) (Image, error) { return s.find(ctx, name) }

// Tag gives the image src a further name. A name that stands for another image is moved only
// with force, and otherwise [errdefs.ErrAlreadyExists].
func (s *Store) Tag(ctx context.Context, src, dst string, force bool) error {
	img, err := s.find(ctx, src)
	if err != nil {
		return fmt.Errorf("tag %s: %w", src, err)
	}
	r, err := ref.Parse(dst)
	if err != nil {
		return fmt.Errorf("tag %s: %w", dst, err)
	}
	if _, err := s.meta.Tag(ctx, s.ns, img.Name, r.String(), force); err != nil {
		return fmt.Errorf("tag %s: %w", r, err)
	}
	return nil
}

// RemoveImages takes names away and returns those that went. Content goes at the next collection.
func (s *Store) RemoveImages(ctx context.Context, names ...string) ([]string, error) {
	var full []string
	for _, n := range names {
		img, err := s.find(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("remove %s: %w", n, err)
		}
		full = append(full, img.Name)
	}
	if _, err := s.meta.RemoveImages(ctx, s.ns, full...); err != nil {
		return nil, fmt.Errorf("remove %s: %w", strings.Join(names, " "), err)
	}
	return full, nil
}

// LabelImage sets labels of an image; an empty value removes one.
func (s *Store) LabelImage(ctx context.Context, name string, labels map[string]string) error {
	img, err := s.find(ctx, name)
	if err != nil {
		return fmt.Errorf("label %s: %w", name, err)
	}
	if _, err := s.meta.LabelImage(ctx, s.ns, img.Name, labels); err != nil {
		return fmt.Errorf("label %s: %w", name, err)
	}
	return nil
}

// CheckImage looks for every blob that an image needs, on the disk; with verify it also reads
// them and compares their digests.
func (s *Store) CheckImage(ctx context.Context, img Image, verify bool) (ImageFinding, error) {
	return doctor.CheckImage(ctx, s.content, s.meta, s.ns, img, verify)
}

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
	for i, l := range doc.Layers {
		li := LayerInfo{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size}
		if len(diffs) == len(doc.Layers) {
			li.DiffID, li.ChainID = diffs[i], chains[i]
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

// find looks an image up by what a person types: a reference, or the digest of its root
// descriptor or a unique prefix of it.
func (s *Store) find(ctx context.Context, name string) (metadata.Image, error) {
	// A whole name goes first: a repository may be called like a prefix of a digest.
	r, refErr := ref.Parse(name)
	if refErr == nil {
		img, err := s.meta.Image(ctx, s.ns, r.String())
		if err == nil || !errdefs.IsNotFound(err) {
			return img, err
		}
	}
	algorithm, hex, ok := ref.ParseDigestPrefix(name)
	if !ok {
		if refErr != nil {
			return metadata.Image{}, refErr
		}
		return metadata.Image{}, fmt.Errorf("image %s: %w", r, errdefs.ErrNotFound)
	}
	found, err := s.meta.ImagesByPrefix(ctx, s.ns, algorithm+":"+hex)
	if err != nil {
		return metadata.Image{}, err
	}
	digests := map[Digest]bool{}
	for _, img := range found {
		digests[img.Target.Digest] = true
	}
	switch {
	case len(found) == 0:
		return metadata.Image{}, fmt.Errorf("image %s: %w", name, errdefs.ErrNotFound)
	case len(digests) > 1:
		return metadata.Image{}, fmt.Errorf("image %s: %d images begin so; give more digits: %w", name, len(digests), errdefs.ErrInvalidArgument)
	}
	return found[0], nil
}

// CheckReference tells whether s can be the name of an image. Errors:
// [errdefs.ErrInvalidArgument], with the reason.
func CheckReference(s string) error {
	_, err := ref.Parse(s)
	return err
}
