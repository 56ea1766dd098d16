package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
)

// A named is all that is here of one image: the records whose manifest for this machine has the
// same config.
type named struct {
	id     stowage.Digest // of the config
	names  []string       // of the records, sorted
	size   int64          // bytes of manifest, config and layers
	pinned bool
}

// ListImages lists the images that can be run, or the one that the filter names.
func (s *Server) ListImages(ctx context.Context, req *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	images, err := s.list(ctx, req.GetFilter())
	return &runtime.ListImagesResponse{Images: images}, err
}

// batch is how many images go into one message of a stream: some 200 KiB.
const batch = 500

// StreamImages is [Server.ListImages] for nodes whose images do not fit into one message.
func (s *Server) StreamImages(req *runtime.StreamImagesRequest, stream grpc.ServerStreamingServer[runtime.StreamImagesResponse]) error {
	images, err := s.list(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	for some := range slices.Chunk(images, batch) {
		if err := stream.Send(&runtime.StreamImagesResponse{Images: some}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) list(ctx context.Context, filter *runtime.ImageFilter) (list []*runtime.Image, err error) {
	var all []named
	if name := filter.GetImage().GetImage(); name != "" {
		n, err := s.find(ctx, name)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		all = []named{n}
	} else if all, err = s.images(ctx); err != nil {
		return nil, err
	}
	for _, n := range all {
		config, err := s.config(ctx, n)
		switch {
		case err == nil:
			list = append(list, n.message(config))
		case ctx.Err() != nil:
			return nil, err
		case !errdefs.IsNotFound(err): // otherwise it has just gone
			s.o.Log.Warn("an image cannot be listed", "image", n.id, "reason", err)
		}
	}
	return list, nil
}

// ImageStatus describes an image; one that is not here is no error, and no image.
func (s *Server) ImageStatus(ctx context.Context, req *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	n, err := s.find(ctx, req.GetImage().GetImage())
	if errdefs.IsNotFound(err) {
		return &runtime.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	config, err := s.config(ctx, n)
	if err != nil {
		return nil, err
	}
	res := &runtime.ImageStatusResponse{Image: n.message(config)}
	if req.GetVerbose() {
		info, err := verbose(config)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", n.id, err)
		}
		res.Info = map[string]string{"info": info}
	}
	return res, nil
}

// verbose is what there is to know of an image, as containerd has it, which crictl and others read.
func verbose(config []byte) (string, error) {
	c, err := image.ParseConfig(config)
	if err != nil {
		return "", err
	}
	var info struct {
		ChainID   stowage.Digest  `json:"chainID"`
		ImageSpec json.RawMessage `json:"imageSpec"`
	}
	if chain := image.ChainIDs(c.DiffIDs); len(chain) > 0 {
		info.ChainID = chain[len(chain)-1]
	}
	info.ImageSpec = config
	b, err := json.Marshal(info)
	return string(b), err
}

// RemoveImage takes all names of an image away, whichever of them it is called by, and what only they
// kept. Whoever removes what is not here is done.
func (s *Server) RemoveImage(ctx context.Context, req *runtime.RemoveImageRequest) (*runtime.RemoveImageResponse, error) {
	for {
		n, err := s.find(ctx, req.GetImage().GetImage())
		if errdefs.IsNotFound(err) {
			return &runtime.RemoveImageResponse{}, nil
		}
		if err != nil {
			return nil, err
		}
		report, err := s.store.RemoveImages(ctx, n.names, stowage.RemoveOptions{Collect: true})
		switch {
		case err == nil:
		case report != nil:
			// The image is gone, and the next collection takes what this one left.
			s.o.Log.Warn("what a removed image leaves was not collected", "image", n.id, "reason", err)
		case !errdefs.IsNotFound(err): // otherwise somebody was faster with one of the names
			return nil, err
		}
	}
}

// images lists what can be run on this machine, by ID.
func (s *Server) images(ctx context.Context) ([]named, error) {
	records, err := s.store.Images(ctx)
	if err != nil {
		return nil, err
	}
	return s.group(ctx, records)
}

// group makes images of their records.
func (s *Server) group(ctx context.Context, records []stowage.Image) ([]named, error) {
	var manifests []stowage.Digest
	size := map[stowage.Digest]int64{}
	of := make([]stowage.Digest, len(records)) // by record; empty: it cannot be run
	for i, r := range records {
		if p, ok := runnable(r); ok {
			of[i], size[p.Manifest.Digest] = p.Manifest.Digest, p.Size
			manifests = append(manifests, p.Manifest.Digest)
		}
	}
	docs, err := s.store.Metadata().Documents(ctx, manifests...)
	if err != nil {
		return nil, err
	}
	config := map[stowage.Digest]stowage.Digest{}
	for _, d := range docs {
		if d.IsImage() {
			config[d.Digest] = d.Config.Digest
		}
	}
	at := map[stowage.Digest]int{}
	var list []named
	for i, r := range records {
		id := config[of[i]]
		if id == "" {
			continue
		}
		if _, ok := at[id]; !ok {
			at[id] = len(list)
			list = append(list, named{id: id, size: size[of[i]]})
		}
		n := &list[at[id]]
		n.names = append(n.names, r.Name)
		n.pinned = n.pinned || s.pinned[r.Name] || r.Labels[pinLabel] == pinValue
	}
	slices.SortFunc(list, func(a, b named) int { return strings.Compare(string(a.id), string(b.id)) })
	return list, nil
}

// runnable is the part of an image that is for this machine, if all of it is here, or can be had
// when it is needed.
func runnable(img stowage.Image) (p metadata.PlatformState, ok bool) {
	list := make([]stowage.Descriptor, len(img.Platforms))
	for i, p := range img.Platforms {
		list[i] = p.Manifest
		list[i].Platform = &p.Platform
	}
	chosen, err := image.Choose([]stowage.Platform{image.Host()}, list)
	if err != nil {
		return p, false // there is none
	}
	i := slices.IndexFunc(img.Platforms, func(p metadata.PlatformState) bool { return p.Manifest.Digest == chosen[0].Digest })
	p = img.Platforms[i]
	return p, p.State == stowage.Complete || p.State == stowage.Lazy
}

// find looks an image up by its ID, a prefix of it of at least 6 digits, or a reference. Errors:
// [errdefs.ErrNotFound]; [errdefs.ErrInvalidArgument] for a name that is none, or of several images.
func (s *Server) find(ctx context.Context, name string) (named, error) {
	absent := fmt.Errorf("image %s: %w", name, errdefs.ErrNotFound)
	id, err := s.id(ctx, name)
	if err != nil {
		return named{}, err
	}
	if id == "" {
		return named{}, absent
	}
	records, err := s.store.Metadata().ImagesAbove(ctx, Namespace, id)
	if err != nil {
		return named{}, err
	}
	found, err := s.group(ctx, records)
	if err != nil {
		return named{}, err
	}
	// An index reaches the configs of other platforms, too.
	i := slices.IndexFunc(found, func(n named) bool { return n.id == id })
	if i < 0 {
		return named{}, absent
	}
	return found[i], nil
}

// id finds the ID that a name means; empty: there is none.
func (s *Server) id(ctx context.Context, name string) (id stowage.Digest, err error) {
	r, refErr := parse(name)
	if refErr == nil {
		record, err := s.store.Metadata().Image(ctx, Namespace, r.String())
		if err == nil {
			found, err := s.group(ctx, []stowage.Image{record})
			if err != nil || len(found) == 0 {
				return "", err
			}
			return found[0].id, nil
		}
		if !errdefs.IsNotFound(err) {
			return "", err
		}
	}
	algorithm, hex, ok := ref.ParseDigestPrefix(name)
	if !ok {
		return "", refErr
	}
	prefix := algorithm + ":" + hex
	if image.CheckDigest(stowage.Digest(prefix)) == nil {
		return stowage.Digest(prefix), nil
	}
	all, err := s.images(ctx)
	if err != nil {
		return "", err
	}
	for _, n := range all {
		switch {
		case !strings.HasPrefix(n.id.String(), prefix):
		case id != "":
			return "", fmt.Errorf("image %s: several images begin so: %w", name, errdefs.ErrInvalidArgument)
		default:
			id = n.id
		}
	}
	return id, nil
}

// config reads the config of an image.
func (s *Server) config(ctx context.Context, n named) ([]byte, error) {
	b, err := content.ReadBlob(ctx, s.store.Content(), n.id, image.MaxConfig)
	if err != nil {
		return nil, fmt.Errorf("image %s: config: %w", n.id, err)
	}
	return b, nil
}

// message describes an image as clients want it.
func (n named) message(config []byte) *runtime.Image {
	m := &runtime.Image{Id: n.id.String(), Size: uint64(n.size), Pinned: n.pinned}
	for _, name := range n.names {
		r, err := ref.Parse(name)
		switch {
		case err != nil || r.String() != name: // the ID, or what some client has thought of
		case r.Digest() != "":
			m.RepoDigests = append(m.RepoDigests, name)
		default:
			m.RepoTags = append(m.RepoTags, name)
		}
	}
	user := userOf(config)
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		m.Uid = &runtime.Int64Value{Value: uid}
	} else {
		m.Username = user
	}
	return m
}

// maxUser bounds the name of a user, in bytes, so that no image makes a list too long to be sent. A
// longer one is cut off: to leave it out would say that the image runs as root.
const maxUser = 256

// userOf is who runs an image, by name or number, without the group; empty: nothing is said. One bad
// config must not spoil a list: what cannot be read of it says nothing.
func userOf(config []byte) string {
	var c struct {
		Config struct{ User string }
	}
	_ = json.Unmarshal(config, &c)
	user, _, _ := strings.Cut(c.Config.User, ":")
	return strings.ToValidUTF8(user[:min(len(user), maxUser)], "")
}
