package archive

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
)

// A list is one of the small files that say what an archive holds.
type list struct {
	name string
	body []byte
}

// lists makes oci-layout, index.json, and, if docker can read one of the images, manifest.json
// and repositories.
func (l Layout) lists(blobs []image.Descriptor) ([]list, error) {
	if err := l.check(blobs); err != nil {
		return nil, err
	}
	index := v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: image.OCIIndex,
		Manifests: []image.Descriptor{},
	}
	var docker []dockerImage
	repositories := map[string]map[string]string{}
	type entry struct {
		name, tag string
		target    image.Digest
	}
	seen := map[entry]bool{}
	for _, img := range l.Images {
		e := entry{img.Name, img.Tag, img.Target.Digest}
		if seen[e] {
			continue
		}
		seen[e] = true
		name, _ := ref.Parse(img.Name) // what is no reference has no tag
		index.Manifests = append(index.Manifests, indexEntry(img, name))
		if img.Docker != nil {
			docker = addDocker(docker, *img.Docker, name)
			addRepository(repositories, *img.Docker, name)
		}
	}
	out := []struct {
		name  string
		value any
		skip  bool
	}{
		{layoutName, v1.ImageLayout{Version: layoutVersion}, false},
		{indexName, index, false},
		{manifestName, docker, len(docker) == 0},
		{repositoriesName, repositories, len(repositories) == 0},
	}
	var lists []list
	for _, f := range out {
		if f.skip {
			continue
		}
		b, err := json.Marshal(f.value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		lists = append(lists, list{f.name, b})
	}
	return lists, nil
}

// check refuses lists that name what the archive will not hold.
func (l Layout) check(blobs []image.Descriptor) error {
	have := map[image.Digest]bool{}
	for _, d := range blobs {
		have[d.Digest] = true
	}
	for _, img := range l.Images {
		need := []image.Digest{img.Target.Digest}
		if img.Docker != nil {
			need = append(append(need, img.Docker.Config), img.Docker.Layers...)
		}
		for _, d := range need {
			if !have[d] {
				return fmt.Errorf("image %q needs %s, which is not among the blobs: %w", img.Name, d, errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

// indexEntry is how index.json lists an image: with its whole name, which containerd and docker
// look for, and with its tag, by which others choose.
func indexEntry(img ExportImage, name ref.Reference) image.Descriptor {
	d := image.Descriptor{MediaType: img.Target.MediaType, Digest: img.Target.Digest, Size: img.Target.Size}
	switch {
	case img.Name != "":
		d.Annotations = map[string]string{annotationName: img.Name}
		if name.Tag() != "" {
			d.Annotations[annotationRef] = name.Tag()
		}
	case img.Tag != "":
		d.Annotations = map[string]string{annotationRef: img.Tag}
	}
	return d
}

// addDocker lists an image in manifest.json. Names of one image stand together, in normal form: podman
// takes a short one for its own. One without a tag has no name there.
func addDocker(list []dockerImage, d DockerEntry, name ref.Reference) []dockerImage {
	e := dockerImage{Config: blobPath(d.Config), RepoTags: []string{}, Layers: []string{}}
	for _, l := range d.Layers {
		e.Layers = append(e.Layers, blobPath(l))
	}
	i := slices.IndexFunc(list, func(other dockerImage) bool {
		return other.Config == e.Config && slices.Equal(other.Layers, e.Layers)
	})
	if i < 0 {
		i, list = len(list), append(list, e)
	}
	if tag := dockerTag(name); tag != "" && !slices.Contains(list[i].RepoTags, tag) {
		list[i].RepoTags = append(list[i].RepoTags, tag)
	}
	return list
}

// addRepository lists an image in repositories, by its top layer.
func addRepository(repositories map[string]map[string]string, d DockerEntry, name ref.Reference) {
	if dockerTag(name) == "" || len(d.Layers) == 0 {
		return
	}
	if repositories[name.Name()] == nil {
		repositories[name.Name()] = map[string]string{}
	}
	repositories[name.Name()][name.Tag()] = d.Layers[len(d.Layers)-1].Encoded()
}

func dockerTag(name ref.Reference) string {
	if name.Tag() == "" || name.Digest() != "" {
		return ""
	}
	return name.String()
}
