package containerd

import (
	"context"
	"fmt"
	"maps"
	"strings"

	images "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/filter"
	"github.com/stowage/stowage/internal/image"
)

// imagesService gives, lists and takes names. A name is here what its client says that it is, in normal
// form or not.
type imagesService struct {
	images.UnimplementedImagesServer
	server *Server
}

func registerImages(r grpc.ServiceRegistrar, s *Server) {
	images.RegisterImagesServer(r, &imagesService{server: s})
}

// Get gives one image.
func (i *imagesService) Get(ctx context.Context, req *images.GetImageRequest) (*images.GetImageResponse, error) {
	store, err := i.server.in(ctx)
	if err != nil {
		return nil, err
	}
	img, err := store.Metadata().Image(ctx, store.Namespace(), req.Name)
	if err != nil {
		return nil, err
	}
	return &images.GetImageResponse{Image: imageToProto(img)}, nil
}

// List gives those that a filter matches: all, if there is none.
func (i *imagesService) List(ctx context.Context, req *images.ListImagesRequest) (*images.ListImagesResponse, error) {
	store, err := i.server.in(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := filter.Parse(req.Filters...)
	if err != nil {
		return nil, err
	}
	list, err := store.Images(ctx)
	if err != nil {
		return nil, err
	}
	res := &images.ListImagesResponse{Images: make([]*images.Image, 0, len(list))}
	for _, img := range list {
		if img.Target.Digest == "" {
			i.server.o.Log.Warn("the record of an image is damaged", "image", img.Name, "namespace", store.Namespace())
			continue
		}
		if chosen.Match(imageFields(img)) {
			res.Images = append(res.Images, imageToProto(img))
		}
	}
	return res, nil
}

// imageFields are what filters look at.
func imageFields(img stowage.Image) filter.Fields {
	return func(path []string) (string, bool) {
		switch {
		case len(path) == 1 && path[0] == "name":
			return img.Name, true
		case len(path) == 2 && path[0] == "target" && path[1] == "digest":
			return img.Target.Digest.String(), true
		case len(path) == 2 && path[0] == "target" && path[1] == "mediatype":
			return img.Target.MediaType, img.Target.MediaType != ""
		case len(path) > 1 && path[0] == "labels":
			return filter.Label(img.Labels, path[1:])
		case len(path) > 1 && path[0] == "annotations":
			return filter.Label(img.Target.Annotations, path[1:])
		}
		return "", false
	}
}

// Create names a target, whatever of it is here.
func (i *imagesService) Create(ctx context.Context, req *images.CreateImageRequest) (*images.CreateImageResponse, error) {
	store, err := i.server.in(ctx)
	if err != nil {
		return nil, err
	}
	put, err := putImage(req.Image)
	if err != nil {
		return nil, err
	}
	put.New = true
	img, err := store.NameImage(ctx, put)
	if err != nil {
		return nil, err
	}
	i.server.filler.add(store, img)
	return &images.CreateImageResponse{Image: imageToProto(img)}, nil
}

// Update changes the fields of an image that the mask names: target, labels, annotations, or single ones
// of the last two. Without a mask it changes target and labels.
func (i *imagesService) Update(ctx context.Context, req *images.UpdateImageRequest) (*images.UpdateImageResponse, error) {
	store, err := i.server.in(ctx)
	if err != nil {
		return nil, err
	}
	if req.Image.GetName() == "" {
		return nil, errNoName
	}
	mask := req.UpdateMask.GetPaths()
	if len(mask) == 0 {
		mask = []string{"labels", "target"}
	}
	moves := false
	var labels, annotations edit
	for _, path := range mask {
		field, key, single := strings.Cut(path, ".")
		switch {
		case path == "target":
			moves = true
		case field == "labels":
			labels.add(req.Image.Labels, key, single)
		case field == "annotations":
			annotations.add(req.Image.Target.GetAnnotations(), key, single)
		default:
			return nil, fmt.Errorf("an image has no field %.100q to be updated: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	var img stowage.Image
	if moves {
		var put stowage.PutImage
		if put, err = putImage(req.Image); err != nil {
			return nil, err
		}
		put.Known, put.Labels, put.Relabel = true, labels.to, labels.whole
		img, err = store.NameImage(ctx, put)
	} else {
		img, err = store.Metadata().EditImage(ctx, store.Namespace(), req.Image.Name, func(img *stowage.Image) error {
			img.Labels, img.Target.Annotations = labels.of(img.Labels), annotations.of(img.Target.Annotations)
			return nil
		})
	}
	if err != nil {
		return nil, err
	}
	i.server.filler.add(store, img)
	return &images.UpdateImageResponse{Image: imageToProto(img)}, nil
}

// Delete takes a name away, and with sync deletes what nothing needs any more before it answers.
func (i *imagesService) Delete(ctx context.Context, req *images.DeleteImageRequest) (*emptypb.Empty, error) {
	store, err := i.server.in(ctx)
	if err != nil {
		return nil, err
	}
	target := image.Digest(req.Target.GetDigest())
	if err := store.RemoveImage(ctx, req.Name, target); err != nil {
		return nil, err
	}
	if req.Sync {
		if err := i.server.collector.collect(ctx); err != nil {
			return nil, err
		}
	}
	return &emptypb.Empty{}, nil
}

// An edit is what a field mask says of labels.
type edit struct {
	whole bool              // those that there are go
	to    map[string]string // those that come; an empty value removes one
}

// add adds a path of the mask: all labels, or the single one called key.
func (e *edit) add(from map[string]string, key string, single bool) {
	if e.to == nil {
		e.to = map[string]string{}
	}
	if single {
		e.to[key] = from[key]
		return
	}
	e.whole = true
	maps.Copy(e.to, from)
}

// of edits labels, which are the caller's to change.
func (e edit) of(labels map[string]string) map[string]string {
	if e.whole || labels == nil {
		labels = map[string]string{}
	}
	for k, v := range e.to {
		if labels[k] = v; v == "" {
			delete(labels, k)
		}
	}
	return labels
}

var errNoName = fmt.Errorf("the image has no name: %w", errdefs.ErrInvalidArgument)

// putImage reads an image that a client wants to have.
func putImage(img *images.Image) (put stowage.PutImage, err error) {
	target := descriptorFromProto(img.GetTarget())
	if img.GetName() == "" {
		return put, errNoName
	}
	if err := image.CheckDescriptor(target); err != nil {
		return put, fmt.Errorf("target: %w", err)
	}
	if target.Size == 0 || target.MediaType == "" {
		return put, fmt.Errorf("target %s needs a size and a media type: %w", target.Digest, errdefs.ErrInvalidArgument)
	}
	return stowage.PutImage{Name: img.Name, Target: target, Labels: img.Labels}, nil
}

func imageToProto(img stowage.Image) *images.Image {
	return &images.Image{
		Name: img.Name, Labels: img.Labels, Target: descriptorToProto(img.Target),
		CreatedAt: timestamppb.New(img.CreatedAt), UpdatedAt: timestamppb.New(img.UpdatedAt),
	}
}
