package containerd

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"

	"github.com/stowage/stowage"
)

// registryName is a registry as progress calls it.
func registryName(r *transfer.OCIRegistry) string { return "OCI Registry (" + r.Reference + ")" }

// A way is how a client wants a registry to be reached.
type way struct {
	stowage.Manner
	end func()
}

// reach finds out how a client wants a registry to be reached. The caller ends the way.
func (t *transferring) reach(ctx context.Context, r *transfer.OCIRegistry) (way, error) {
	w := way{end: func() {}}
	o := r.GetResolver()
	switch {
	case len(o.GetHeaders()) > 0:
		return w, fmt.Errorf("headers for a registry that come with a request: %w", errdefs.ErrNotImplemented)
	case o.GetHttpDebug() != transfer.HTTPDebug_DISABLED:
		return w, fmt.Errorf("a log of HTTP requests for the client: %w", errdefs.ErrNotImplemented)
	}
	switch o.GetDefaultScheme() {
	case "", "https":
	case "http":
		w.PlainHTTP = true
	default:
		return w, fmt.Errorf("scheme %.100q: %w", o.GetDefaultScheme(), errdefs.ErrInvalidArgument)
	}
	w.HostsDir = o.GetHostDir()
	if id := o.GetAuthStream(); id != "" {
		s, err := t.streams.take(t.store, id)
		if err != nil {
			return w, err
		}
		w.end = s.Close
		asked := &asking{stream: s, reference: r.Reference}
		w.Credentials = asked.credentials
	}
	return w, nil
}

// asking asks a client for credentials, one at a time.
type asking struct {
	reference string // that the client gave

	mu     sync.Mutex
	stream *stream
}

// credentials implements [stowage.Manner]'s.
func (a *asking) credentials(ctx context.Context, registry string) (stowage.Credentials, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.stream.until(ctx)()
	if registry == "docker.io" {
		registry = "registry-1.docker.io" // as its clients call its server
	}
	var res transfer.AuthResponse
	err := a.stream.send(&transfer.AuthRequest{Host: registry, Reference: a.reference})
	if err == nil {
		err = a.stream.recv(&res)
	}
	if err != nil {
		return stowage.Credentials{}, fmt.Errorf("ask the client: %w", err)
	}
	switch res.AuthType {
	case transfer.AuthType_NONE:
		return stowage.Credentials{}, nil
	case transfer.AuthType_CREDENTIALS:
		return stowage.Credentials{Username: res.Username, Password: res.Secret}, nil
	case transfer.AuthType_REFRESH:
		return stowage.Credentials{IdentityToken: res.Secret}, nil
	case transfer.AuthType_HEADER:
		return fromHeader(res.Secret)
	}
	return stowage.Credentials{}, fmt.Errorf("credentials of kind %d: %w", res.AuthType, errdefs.ErrNotImplemented)
}

// fromHeader reads what stands in an Authorization header.
func fromHeader(value string) (stowage.Credentials, error) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(value), " ")
	rest = strings.TrimSpace(rest)
	switch strings.ToLower(scheme) {
	case "bearer":
		if rest != "" {
			return stowage.Credentials{RegistryToken: rest}, nil
		}
	case "basic":
		b, err := base64.StdEncoding.DecodeString(rest)
		if user, password, ok := strings.Cut(string(b), ":"); ok && err == nil && user != "" {
			return stowage.Credentials{Username: user, Password: password}, nil
		}
	}
	return stowage.Credentials{}, fmt.Errorf("an Authorization header that is neither Basic nor Bearer: %w", errdefs.ErrInvalidArgument)
}
