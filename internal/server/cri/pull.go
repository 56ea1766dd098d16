package cri

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/metadata"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
)

// The labels of records, as containerd gives them.
const (
	managedLabel = "io.cri-containerd.image"
	managedValue = "managed"
	pinLabel     = "io.cri-containerd.pinned"
	pinValue     = "pinned"
)

// PullImage pulls and unpacks an image for this machine, and records it under its tag or digest, the
// digest, and its ID, which it answers. Without credentials in the request, those of the store count.
func (s *Server) PullImage(ctx context.Context, req *runtime.PullImageRequest) (*runtime.PullImageResponse, error) {
	name := req.GetImage().GetImage()
	r, err := parse(name)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", name, err)
	}
	o := stowage.PullOptions{}
	o.Platforms = []stowage.Platform{image.Host()}
	// Which runtimes a node has is not known here: one without a snapshotter of its own is no error.
	o.Snapshotter = cmp.Or(s.o.Runtimes[req.GetImage().GetRuntimeHandler()], s.o.Snapshotter)
	if req.GetAuth() != nil {
		c, err := credentials(req.GetAuth(), r.Registry())
		if err != nil {
			return nil, fmt.Errorf("pull %s: %w", r, err)
		}
		o.Credentials = func(_ context.Context, asked string) (stowage.Credentials, error) {
			if asked != r.Registry() {
				return stowage.Credentials{}, nil
			}
			return c, nil
		}
	}
	if _, err := s.store.Pull(ctx, r.String(), o); err != nil {
		return nil, err
	}
	id, err := s.record(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", r, err)
	}
	return &runtime.PullImageResponse{ImageRef: id}, nil
}

var errArtifact = fmt.Errorf("it is an artifact, and cannot be run: %w", errdefs.ErrInvalidArgument)

// record gives an image that was pulled the names and labels that it has for CRI's clients, all at
// once, and returns its ID.
func (s *Server) record(ctx context.Context, r ref.Reference) (id string, err error) {
	img, err := s.store.Image(ctx, r.String())
	if err != nil {
		return "", err
	}
	p, ok := runnable(img)
	switch {
	case !ok && img.State == stowage.Partial:
		return "", fmt.Errorf("some of it went away again: %w", errdefs.ErrUnavailable)
	case !ok:
		return "", errArtifact
	}
	doc, err := s.store.Metadata().Document(ctx, p.Manifest.Digest)
	if err != nil {
		return "", err
	}
	if !doc.IsImage() {
		return "", errArtifact
	}
	id = doc.Config.Digest.String()
	names := []string{id, r.String()}
	if r.Digest() == "" {
		names = append(names, r.Name()+"@"+img.Target.Digest.String())
	}
	labels := map[string]string{managedLabel: managedValue}
	if s.pinned[r.String()] {
		labels[pinLabel] = pinValue
	}
	var batch metadata.Batch
	for _, name := range names {
		batch.Images = append(batch.Images, metadata.PutImage{
			Name: name, Target: img.Target, Labels: labels, Want: []stowage.Digest{p.Manifest.Digest},
		})
	}
	_, err = s.store.Metadata().Apply(ctx, Namespace, batch)
	return id, err
}

// credentials are what a request has for a registry. Those for a server that is not it are not used.
// Errors: [errdefs.ErrInvalidArgument].
func credentials(a *runtime.AuthConfig, of string) (c stowage.Credentials, err error) {
	if a.GetServerAddress() != "" {
		name, err := registry.RegistryName(a.GetServerAddress())
		if err != nil {
			return c, fmt.Errorf("server address: %w", err)
		}
		if name != of {
			return c, nil
		}
	}
	switch {
	case a.GetUsername() != "":
		c.Username, c.Password = a.GetUsername(), a.GetPassword()
	case a.GetIdentityToken() != "":
		c.IdentityToken = a.GetIdentityToken()
	case a.GetRegistryToken() != "":
		c.RegistryToken = a.GetRegistryToken()
	case a.GetAuth() != "":
		b, err := base64.StdEncoding.DecodeString(a.GetAuth())
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok {
			return c, fmt.Errorf("auth: want user:password in base64: %w", errdefs.ErrInvalidArgument)
		}
		c.Username, c.Password = user, strings.Trim(password, "\x00") // which docker fills it up with
	}
	return c, nil
}
