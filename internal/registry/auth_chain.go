package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stowage/stowage/internal/registry/hosts"
)

// Credentials are what a registry is shown: a user with a password, or an identity token, for which
// it gives tokens, or a token of its own. The zero value shows nothing.
type Credentials struct {
	Username, Password string
	IdentityToken      string
	RegistryToken      string
}

// A CredentialsFunc gives the credentials for a registry, called as references call it: docker.io. It
// is not asked for mirrors, which stand in for one. The zero value says that there are none.
type CredentialsFunc func(ctx context.Context, registry string) (Credentials, error)

// A credential is what a server is shown, and where it was found.
type credential struct {
	auth.Credential
	source string // for people; never the secret
}

// A chain finds the credentials for a repository of one server. Its links, of which the first that
// has some counts, are: what the caller gave; the hosts file; docker's and podman's files in
// their order, with the helpers that they name; nothing.
type chain struct {
	client   *Client
	registry string      // behind which the server stands
	host     string      // of the server
	name     string      // under what its credentials are filed
	own      bool        // it is the registry itself, and not one that stands in for it
	file     *hosts.Auth // what the hosts file says; may be nil
}

func (c *Client) newChain(registry string, h hosts.Host, own bool) *chain {
	n := &chain{client: c, registry: registry, host: h.URL.Host, name: serverName(h.URL.Host), own: own, file: h.Auth}
	if own {
		n.name = serverName(registry)
	}
	return n
}

// find asks the links in turn. An error is the caller's, or a *[credentialError]: credentials that are
// there and cannot be read are not passed over.
func (n *chain) find(ctx context.Context, repo string) (credential, error) {
	if given := n.client.o.Credentials; given != nil && n.own {
		c, err := given(ctx, n.registry)
		if err != nil {
			return credential{}, fmt.Errorf("credentials for %s: %w", n.registry, err)
		}
		cred := auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.IdentityToken, AccessToken: c.RegistryToken}
		if cred != auth.EmptyCredential {
			return credential{cred, "caller"}, nil
		}
	}
	if o := n.client.o; n.own && o.Username != "" {
		return credential{auth.Credential{Username: o.Username, Password: o.Password}, cmp.Or(o.UsernameFrom, "options")}, nil
	}
	if a := n.file; a != nil {
		cred := auth.Credential{Username: a.Username, Password: a.Password}
		if a.IdentityToken != "" {
			cred = auth.Credential{RefreshToken: a.IdentityToken}
		}
		return credential{cred, a.Source}, nil
	}
	for _, name := range n.client.o.AuthFiles {
		cred, err := n.fromFile(ctx, name, repo)
		if ctx.Err() != nil {
			return credential{}, ctx.Err()
		}
		if err != nil {
			return credential{}, &credentialError{n.host, name, reason(err)}
		}
		if cred.Credential != auth.EmptyCredential {
			return cred, nil
		}
	}
	return credential{source: "none: anonymous"}, nil
}

func (n *chain) fromFile(ctx context.Context, name, repo string) (credential, error) {
	f, err := readAuthFile(name)
	if err != nil {
		return credential{}, err
	}
	for _, p := range f.places(n.name, repo) {
		source := fmt.Sprintf("auth file %s, key %s", name, p.key)
		var cred auth.Credential
		if p.helper != "" {
			source += ", helper docker-credential-" + p.helper
			cred, err = n.client.askHelper(ctx, p.helper, p.server)
		} else {
			cred, err = f.entry(p.key)
		}
		if err != nil || cred != auth.EmptyCredential {
			return credential{cred, source}, err
		}
	}
	return credential{}, nil
}

// A credentialError reports credentials that are there and cannot be read.
type credentialError struct{ host, file, why string }

func (e *credentialError) Error() string {
	return fmt.Sprintf("credentials for %s in %s: %s", e.host, e.file, e.why)
}

// Unwrap makes a credentialError an [errdefs.ErrUnauthenticated].
func (e *credentialError) Unwrap() error { return errdefs.ErrUnauthenticated }

// reason leaves out the name of a file, which is told already.
func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}
