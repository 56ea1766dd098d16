package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	service "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/stowage/stowage"
)

// transferService pulls, pushes, imports, exports and tags images: which of it follows from what is
// brought whereto.
type transferService struct {
	service.UnimplementedTransferServer
	server *Server
}

func registerTransfer(r grpc.ServiceRegistrar, s *Server) {
	service.RegisterTransferServer(r, &transferService{server: s})
}

// Transfer brings images from a source to a destination, and tells the client's stream of its progress.
// Errors: [errdefs.ErrNotImplemented] for what is not from images, to images, or both.
func (t *transferService) Transfer(ctx context.Context, req *service.TransferRequest) (*emptypb.Empty, error) {
	store, err := t.server.in(ctx)
	if err != nil {
		return nil, err
	}
	from, err := unwrap(req.Source)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	to, err := unwrap(req.Destination)
	if err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	one := &transferring{server: t.server, store: store, streams: &t.server.streams, tell: func(*transfer.Progress) {}}
	if id := req.Options.GetProgressStream(); id != "" {
		s, err := one.streams.take(store, id)
		if err != nil {
			return nil, err
		}
		n := notify(ctx, s)
		defer n.end()
		one.tell = n.tell
	}
	if err := one.run(ctx, from, to); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// unwrap reads one end of a transfer.
func unwrap(a *anypb.Any) (proto.Message, error) {
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil, fmt.Errorf("message %.200q: %v: %w", a.GetTypeUrl(), err, errdefs.ErrInvalidArgument)
	}
	return m, nil
}

// transferring is one running transfer.
type transferring struct {
	server  *Server
	store   *stowage.Store
	streams *streams
	tell    func(*transfer.Progress)
}

func (t *transferring) run(ctx context.Context, from, to proto.Message) error {
	switch from := from.(type) {
	case *transfer.OCIRegistry:
		if to, ok := to.(*transfer.ImageStore); ok {
			return t.pull(ctx, from, to)
		}
	case *transfer.ImageImportStream:
		if to, ok := to.(*transfer.ImageStore); ok {
			return t.load(ctx, from, to)
		}
	case *transfer.ImageStore:
		switch to := to.(type) {
		case *transfer.OCIRegistry:
			return t.push(ctx, from, to)
		case *transfer.ImageExportStream:
			return t.save(ctx, from, to)
		case *transfer.ImageStore:
			return t.tag(ctx, from, to)
		}
	}
	return fmt.Errorf("a transfer from %s to %s: %w", from.ProtoReflect().Descriptor().Name(), to.ProtoReflect().Descriptor().Name(), errdefs.ErrNotImplemented)
}

// say tells of the transfer as a whole.
func (t *transferring) say(format string, args ...any) {
	t.tell(&transfer.Progress{Event: fmt.Sprintf(format, args...)})
}

// said tells of an image.
func (t *transferring) said(event string, img stowage.Image) {
	t.tell(&transfer.Progress{Event: event, Name: img.Name, Desc: descriptorToProto(img.Target)})
}

// pull brings an image from a registry, unpacks it as it is told, and gives it its names.
func (t *transferring) pull(ctx context.Context, from *transfer.OCIRegistry, to *transfer.ImageStore) error {
	way, err := t.reach(ctx, from)
	if err != nil {
		return err
	}
	defer way.end()
	o := stowage.PullOptions{Manner: way.Manner, Name: to.Name, Progress: t.sink(from, to.Name, pulling)}
	o.Platforms = platformsFromProto(to.Platforms)
	o.All = len(o.Platforms) == 0
	first, rest := unpacks(to.Unpacks)
	o.UnpackOptions = first
	if to.Name == "" && !slices.ContainsFunc(to.ExtraReferences, isWhole) {
		return fmt.Errorf("the image gets no name: %w", errdefs.ErrInvalidArgument)
	}
	if to.Name == "" {
		o.Name = to.ExtraReferences[slices.IndexFunc(to.ExtraReferences, isWhole)].Name
	}
	res, err := t.store.Pull(ctx, from.Reference, o)
	if err != nil {
		return err
	}
	if len(to.Labels) > 0 {
		if err := t.store.LabelImage(ctx, res.Name, to.Labels); err != nil {
			return err
		}
	}
	if err := t.unpack(ctx, res.Name, rest); err != nil {
		return err
	}
	img, err := t.store.Image(ctx, res.Name)
	if err != nil {
		return err
	}
	t.said("saved", img)
	for _, r := range to.ExtraReferences {
		name := r.Name
		if r.IsPrefix {
			if !r.AddDigest {
				continue // it says how parts of an archive are called
			}
			name += "@" + img.Target.Digest.String()
		}
		if err := t.name(ctx, img, name, to.Labels); err != nil {
			return err
		}
	}
	t.say("Completed pull from %s", registryName(from))
	return nil
}

// isWhole tells whether a reference is a name as it stands.
func isWhole(r *transfer.ImageReference) bool { return !r.IsPrefix }

// name gives an image another name.
func (t *transferring) name(ctx context.Context, img stowage.Image, name string, labels map[string]string) error {
	if name == img.Name {
		return nil
	}
	named, err := t.store.Metadata().Tag(ctx, t.store.Namespace(), img.Name, name, true)
	if err == nil && len(labels) > 0 {
		named, err = t.store.Metadata().LabelImage(ctx, t.store.Namespace(), name, labels)
	}
	if err != nil {
		return fmt.Errorf("name %s: %w", name, err)
	}
	t.said("saved", named)
	return nil
}

// unpacks says what a pull or an import unpacks itself, and what is to be unpacked after it: it knows
// one snapshotter.
func unpacks(list []*transfer.UnpackConfiguration) (first stowage.UnpackOptions, rest []*transfer.UnpackConfiguration) {
	if len(list) == 0 {
		return stowage.UnpackOptions{NoUnpack: true}, nil
	}
	first.Snapshotter = list[0].Snapshotter
	for _, u := range list {
		switch {
		case u.Snapshotter != first.Snapshotter:
			rest = append(rest, u)
		case u.Platform != nil:
			first.Only = append(first.Only, platformFromProto(u.Platform))
		}
	}
	return first, rest
}

// unpack unpacks a stored image further.
func (t *transferring) unpack(ctx context.Context, name string, list []*transfer.UnpackConfiguration) error {
	for _, u := range list {
		var platform *stowage.Platform
		if u.Platform != nil {
			p := platformFromProto(u.Platform)
			platform = &p
		}
		if err := t.store.Unpack(ctx, name, u.Snapshotter, platform, nil); err != nil {
			return err
		}
	}
	return nil
}

// push brings an image to a registry.
func (t *transferring) push(ctx context.Context, from *transfer.ImageStore, to *transfer.OCIRegistry) error {
	way, err := t.reach(ctx, to)
	if err != nil {
		return err
	}
	defer way.end()
	img, err := t.whole(ctx, from.Name)
	if err != nil {
		return err
	}
	t.say("Pushing to %s", registryName(to))
	t.said("pushing content", img)
	o := stowage.PushOptions{Manner: way.Manner, Progress: t.sink(to, from.Name, pushing)}
	o.Platforms = platformsFromProto(from.Platforms)
	if _, err := t.store.Push(ctx, from.Name, to.Reference, o); err != nil {
		return err
	}
	t.said("pushed content", img)
	t.say("Completed push to %s", registryName(to))
	return nil
}

// image finds an image by the name that a client gave it.
func (t *transferring) image(ctx context.Context, name string) (stowage.Image, error) {
	return t.store.Metadata().Image(ctx, t.store.Namespace(), name)
}

// whole is image for one that is to be given away: what a client left out of it is fetched first.
func (t *transferring) whole(ctx context.Context, name string) (stowage.Image, error) {
	if !t.server.o.NoFetch {
		if _, err := t.store.FetchSkipped(ctx, name); err != nil {
			return stowage.Image{}, err
		}
	}
	return t.image(ctx, name)
}

// tag gives an image another name.
func (t *transferring) tag(ctx context.Context, from, to *transfer.ImageStore) error {
	img, err := t.image(ctx, from.Name)
	if err != nil {
		return err
	}
	names := []string{to.Name}
	for _, r := range to.ExtraReferences {
		switch {
		case !r.IsPrefix:
			names = append(names, r.Name)
		case r.AddDigest:
			names = append(names, r.Name+"@"+img.Target.Digest.String())
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" })
	if len(names) == 0 {
		return fmt.Errorf("the image gets no name: %w", errdefs.ErrInvalidArgument)
	}
	for _, name := range names {
		if err := t.name(ctx, img, name, to.Labels); err != nil {
			return err
		}
	}
	return nil
}

// save writes images as an archive to the client.
func (t *transferring) save(ctx context.Context, from *transfer.ImageStore, to *transfer.ImageExportStream) (err error) {
	s, err := t.streams.take(t.store, to.Stream)
	if err != nil {
		return err
	}
	defer s.Close()
	if to.MediaType != "" && to.MediaType != "application/x-tar" {
		return fmt.Errorf("an archive of type %.100q: %w", to.MediaType, errdefs.ErrNotImplemented)
	}
	var names []string
	if from.Name != "" {
		names = append(names, from.Name)
	}
	for _, r := range from.ExtraReferences {
		if r.IsPrefix {
			return fmt.Errorf("images to be exported by the beginning of their names: %w", errdefs.ErrNotImplemented)
		}
		names = append(names, r.Name)
	}
	if len(names) == 0 {
		return fmt.Errorf("no image to be exported: %w", errdefs.ErrInvalidArgument)
	}
	for _, name := range names {
		if _, err := t.whole(ctx, name); err != nil {
			return err
		}
	}
	t.say("Exporting")
	// Of progress, nothing that has a name: ctr prints that to where the archive may go as well.
	o := stowage.ExportOptions{NoDocker: to.SkipCompatibilityManifest}
	o.Platforms, o.All = platformsFromProto(to.Platforms), to.AllPlatforms
	defer s.until(ctx)()
	w := newByteWriter(s)
	if err := w.end(t.store.Export(ctx, w, names, o)); err != nil {
		return errors.Join(err, ctx.Err())
	}
	t.say("Completed export")
	return nil
}

// load reads images from an archive that the client sends.
func (t *transferring) load(ctx context.Context, from *transfer.ImageImportStream, to *transfer.ImageStore) error {
	s, err := t.streams.take(t.store, from.Stream)
	if err != nil {
		return err
	}
	defer s.Close()
	if to.Name != "" {
		return fmt.Errorf("a name for the index of an archive as a whole: %w", errdefs.ErrNotImplemented)
	}
	t.say("Importing")
	first, rest := unpacks(to.Unpacks)
	o := stowage.ImportOptions{
		Names: func(name, tag string, d stowage.Digest) []string {
			return importedNames(to.ExtraReferences, name, tag, d)
		},
		Labels: maps.Clone(to.Labels), UnpackOptions: first, Progress: t.sink(nil, "", importing),
	}
	defer s.until(ctx)()
	res, err := t.store.Import(ctx, &byteReader{stream: s}, o)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	for _, is := range res.Images {
		if err := t.unpack(ctx, is.Name, rest); err != nil {
			return err
		}
		img, err := t.image(ctx, is.Name)
		if err != nil {
			return err
		}
		t.said("saved", img)
	}
	for _, warning := range res.Warnings {
		t.say("%s", warning)
	}
	t.say("Completed import")
	return nil
}

func platformsFromProto(list []*types.Platform) (platforms []stowage.Platform) {
	for _, p := range list {
		platforms = append(platforms, platformFromProto(p))
	}
	return platforms
}

func platformFromProto(p *types.Platform) stowage.Platform {
	return stowage.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}
