package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os/exec"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/stowage/stowage/internal/registry/hosts"
)

// An authorizer sends requests to one server, with the credentials that the server asks for.
type authorizer struct {
	client *auth.Client
	host   string
}

// newAuthorizer makes the authorizer of a server behind registry, which sends with next. own tells
// whether it is the registry itself, and not one that stands in for it.
func (c *Client) newAuthorizer(registry string, h hosts.Host, own bool, next *http.Client) *authorizer {
	a := &authorizer{host: h.URL.Host, client: &auth.Client{
		Client: next, Cache: auth.NewCache(), ClientID: c.o.UserAgent, Credential: c.credential(registry, own),
	}}
	a.client.SetUserAgent(c.o.UserAgent)
	return a
}

// do sends a request; scopes are what a token for it must allow. A body that may have to be sent
// twice, because credentials are asked for only then, has a GetBody.
func (a *authorizer) do(req *http.Request, scopes ...string) (*http.Response, error) {
	return a.client.Do(req.WithContext(auth.WithScopesForHost(req.Context(), a.host, scopes...)))
}

// credential gives the credentials for a server behind registry, when one asks for them. own
// tells whether it is the registry itself, and not one that stands in for it.
func (c *Client) credential(registry string, own bool) auth.CredentialFunc {
	return func(ctx context.Context, host string) (auth.Credential, error) {
		keys := []string{credentials.ServerAddressFromHostname(host)}
		if own {
			if c.o.Username != "" {
				return auth.Credential{Username: c.o.Username, Password: c.o.Password}, nil
			}
			// Docker files Docker Hub under a URL of old, podman under its name.
			keys = []string{credentials.ServerAddressFromRegistry(registry), registry}
		}
		for _, file := range c.o.AuthFiles {
			for _, key := range keys {
				cred, err := fromFile(ctx, file, key)
				if err != nil {
					return auth.EmptyCredential, &credentialError{host, file, reason(err)}
				}
				if cred != auth.EmptyCredential {
					return cred, nil
				}
			}
		}
		return auth.EmptyCredential, nil
	}
}

// fromFile looks a server up in a file of docker's format, or asks the helper that it names.
func fromFile(ctx context.Context, file, key string) (auth.Credential, error) {
	store, err := credentials.NewStore(file, credentials.StoreOptions{})
	if err != nil {
		return auth.EmptyCredential, err
	}
	return store.Get(ctx, key)
}

// A credentialError reports credentials that are there and cannot be read.
type credentialError struct{ host, file, why string }

func (e *credentialError) Error() string {
	return fmt.Sprintf("credentials for %s in %s: %s", e.host, e.file, e.why)
}

// Unwrap makes a credentialError an [errdefs.ErrUnauthenticated].
func (e *credentialError) Unwrap() error { return errdefs.ErrUnauthenticated }

// reason says what is wrong in our words: those of the library and of helpers may quote secrets.
func reason(err error) string {
	var path *fs.PathError
	var exit *exec.ExitError
	switch {
	case errors.As(err, &path):
		return path.Err.Error()
	case errors.Is(err, exec.ErrNotFound):
		return "the credential helper that it names is not installed"
	case errors.As(err, &exit):
		return "the credential helper failed: " + exit.Error()
	}
	return "they are malformed, or the credential helper failed"
}
