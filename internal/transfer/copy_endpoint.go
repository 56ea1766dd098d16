package transfer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/archive"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/ref"
)

// A Transport is a kind of place that images are copied from and to.
type Transport string

// The transports.
const (
	DockerTransport        Transport = "docker"         // docker://REF: a registry
	StoreTransport         Transport = "store"          // store:REF
	LayoutTransport        Transport = "oci"            // oci:DIR[:TAG]: the folder of an OCI layout
	ArchiveTransport       Transport = "oci-archive"    // oci-archive:FILE[:REF]: an OCI layout in a tar
	DockerArchiveTransport Transport = "docker-archive" // docker-archive:FILE[:REF]: what docker save writes
)

// An Endpoint is one end of a copy.
type Endpoint struct {
	Transport Transport
	Path      string // of a folder or a file; empty for registries and stores
	Ref       string // a reference, or what a layout calls an image; may be empty where there is a Path
}

// String is the endpoint as [ParseEndpoint] reads it.
func (e Endpoint) String() string {
	switch {
	case e.Transport == DockerTransport:
		return "docker://" + e.Ref
	case e.Path == "":
		return string(e.Transport) + ":" + e.Ref
	case e.Ref == "":
		return string(e.Transport) + ":" + e.Path
	}
	return string(e.Transport) + ":" + e.Path + ":" + e.Ref
}

// ParseEndpoint reads what a person types. A path ends at its first colon. Errors:
// [errdefs.ErrInvalidArgument].
func ParseEndpoint(s string) (Endpoint, error) {
	refuse := func(why string) (Endpoint, error) {
		return Endpoint{}, fmt.Errorf("%q: %s: %w", s, why, errdefs.ErrInvalidArgument)
	}
	transport, rest, _ := strings.Cut(s, ":")
	e := Endpoint{Transport: Transport(transport)}
	switch e.Transport {
	case DockerTransport:
		var ok bool
		if e.Ref, ok = strings.CutPrefix(rest, "//"); !ok || e.Ref == "" {
			return refuse("want docker://REF")
		}
		_, err := ref.Parse(e.Ref)
		return e, err
	case StoreTransport:
		if e.Ref = rest; rest == "" {
			return refuse("want store:REF")
		}
		return e, nil
	case LayoutTransport, ArchiveTransport, DockerArchiveTransport:
		e.Path, e.Ref, _ = strings.Cut(rest, ":")
		if e.Path == "" {
			return refuse("it names no path")
		}
		if e.Path == "-" && e.Transport == LayoutTransport {
			return refuse("a folder cannot go down a pipe")
		}
		return e, nil
	}
	return refuse("it begins with no transport; want docker://REF, store:REF, oci:DIR, oci-archive:FILE or docker-archive:FILE")
}

// CheckTarget tells whether an image can have the name at the endpoint that the endpoint gives it.
// Errors: [errdefs.ErrInvalidArgument].
func (e Endpoint) CheckTarget() error {
	if e.Path == "" {
		_, err := ref.Parse(e.Ref)
		return err
	}
	_, err := e.naming("")
	return err
}

// naming is what an image is called at a target that is a layout or an archive.
func (e Endpoint) naming(sourceName string) (archive.ExportImage, error) {
	if e.Ref == "" {
		return archive.ExportImage{Name: sourceName}, nil
	}
	if e.Transport != DockerArchiveTransport && isTag(e.Ref) {
		return archive.ExportImage{Tag: e.Ref}, nil
	}
	r, err := ref.Parse(e.Ref)
	return archive.ExportImage{Name: r.String()}, err
}

// isTag tells whether s can be a tag of its own, rather than a name.
func isTag(s string) bool {
	_, err := ref.Reference{}.WithTag(s)
	return err == nil
}

// openArchive opens an archive or a layout.
func openArchive(ctx context.Context, e Endpoint) (*archive.Archive, error) {
	if e.Transport == LayoutTransport {
		return archive.OpenDir(e.Path)
	}
	return archive.OpenFile(ctx, e.Path)
}

// choose finds the one image that an endpoint means, which is the source's from then on.
func (s *archiveSource) choose(ctx context.Context, e Endpoint) (name string, err error) {
	found, err := s.pick(ctx, e.Ref)
	if err != nil {
		return "", fmt.Errorf("%s: %w", e.Path, err)
	}
	s.target = found.Target
	return found.Name, nil
}

// pick finds the image that want names; the only one if it is empty.
func (s *archiveSource) pick(ctx context.Context, want string) (archive.Entry, error) {
	list, err := s.candidates(ctx, want)
	if err != nil {
		return archive.Entry{}, err
	}
	digests := map[image.Digest]bool{}
	for _, e := range list {
		digests[e.Target.Digest] = true
	}
	switch {
	case len(digests) == 1:
		return list[0], nil
	case len(s.Images) == 0:
		return archive.Entry{}, fmt.Errorf("it lists no image: %w", errdefs.ErrNotFound)
	case len(digests) == 0:
		return archive.Entry{}, fmt.Errorf("it has no image %s; it has %s: %w", want, offer(s.Images), errdefs.ErrNotFound)
	}
	return archive.Entry{}, fmt.Errorf("it has several images; name one of them after a colon: %s: %w", offer(list), errdefs.ErrInvalidArgument)
}

func (s *archiveSource) candidates(ctx context.Context, want string) (list []archive.Entry, err error) {
	if want != "" {
		whole, wholeErr := ref.Parse(want)
		for _, e := range s.Images {
			name, nameErr := ref.Parse(e.Name)
			if e.Tag == want || e.Target.Digest.String() == want ||
				nameErr == nil && (name.Tag() == want || wholeErr == nil && name == whole) {
				list = append(list, e)
			}
		}
		return list, nil
	}
	referrers := map[image.Digest]bool{}
	if len(s.Images) > 1 {
		// What refers to another image is listed beside it.
		if _, err := s.referrers(ctx, image.Descriptor{}); err != nil {
			return nil, err
		}
		for _, of := range s.bySubject {
			for _, d := range of {
				referrers[d.Digest] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(s.Images), func(e archive.Entry) bool {
		return e.Name == "" && e.Tag == "" && referrers[e.Target.Digest]
	}), nil
}

// offer lists images for a message, which stays one line.
func offer(list []archive.Entry) string {
	var names []string
	for _, e := range list {
		name := e.Name
		if name == "" {
			name = e.Tag
		}
		if name == "" {
			name = e.Target.Digest.String()
		}
		names = append(names, fmt.Sprintf("%.200q", name))
	}
	if n := len(names); n > 20 {
		names = append(names[:20], fmt.Sprintf("and %d more", n-20))
	}
	return strings.Join(names, ", ")
}
