package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/stowage/stowage/internal/ref"
)

// Stored says where credentials went.
type Stored struct {
	File   string // in which they are, or which names Helper
	Helper string // the program that keeps them; empty: they are in File as they are
}

// Login asks the registry whether it takes a user name and a password, and if so keeps them where
// docker does: with the helper that the first of Options.AuthFiles names for the registry, or else in
// that file. Mirrors are not asked.
//
// Errors: [errdefs.ErrUnauthenticated] when the registry refuses them; [errdefs.ErrUnavailable];
// [errdefs.ErrFailedPrecondition] when hosts.toml has the registry itself asked for nothing;
// [errdefs.ErrInvalidArgument] when host is none, or there is no file to keep them in.
func (c *Client) Login(ctx context.Context, host, username, password string) (Stored, error) {
	name, err := RegistryName(host)
	if err != nil {
		return Stored{}, err
	}
	switch {
	case username == "" || strings.Contains(username, ":"):
		return Stored{}, fmt.Errorf("user name %q: it is empty, or has a colon: %w", username, errdefs.ErrInvalidArgument)
	case len(c.o.AuthFiles) == 0:
		return Stored{}, fmt.Errorf("there is no file to keep credentials in: %w", errdefs.ErrInvalidArgument)
	}
	o := c.o
	o.Username, o.Password, o.AuthFiles = username, password, nil
	asking := New(o)
	defer asking.Close()
	if err := asking.accepts(ctx, name); err != nil {
		return Stored{}, fmt.Errorf("log in to %s: %w", name, err)
	}
	stored, err := c.store(ctx, c.o.AuthFiles[0], name, username, password)
	if err != nil {
		return stored, fmt.Errorf("keep credentials for %s in %s: %s", name, c.o.AuthFiles[0], reason(err))
	}
	return stored, nil
}

// Logout forgets the credentials of a registry in every one of Options.AuthFiles, and has the helpers
// that they name forget them. It tells where some were; nowhere is no error. Files that could be
// dealt with were, even with an error. Errors: [errdefs.ErrInvalidArgument] when host is none.
func (c *Client) Logout(ctx context.Context, host string) ([]Stored, error) {
	name, err := RegistryName(host)
	if err != nil {
		return nil, err
	}
	var from []Stored
	var faults []error
	for _, file := range c.o.AuthFiles {
		list, err := c.forget(ctx, file, name)
		from = append(from, list...)
		if err != nil {
			faults = append(faults, fmt.Errorf("forget credentials for %s in %s: %s", name, file, reason(err)))
		}
	}
	return from, errors.Join(faults...)
}

// store keeps credentials in a file, or with the helper that it names.
func (c *Client) store(ctx context.Context, file, server, username, password string) (Stored, error) {
	stored := Stored{File: file}
	f, err := readAuthFile(file)
	if err != nil {
		return stored, err
	}
	key, cred := helperKey(server), auth.Credential{Username: username, Password: password}
	if stored.Helper = f.helper(server); stored.Helper != "" {
		secret, err := json.Marshal(helperSecret{key, username, password})
		if err != nil {
			return stored, err
		}
		if _, _, err := c.runHelper(ctx, stored.Helper, "store", secret); err != nil {
			return stored, err
		}
		cred = auth.EmptyCredential // an entry without a secret is how docker knows that it is logged in
	}
	disk, err := fileStore(file)
	if err != nil {
		return stored, err
	}
	for _, other := range f.keys(server) {
		if other != key {
			err = errors.Join(err, disk.Delete(ctx, other)) // it would come before the new one, or be in its way
		}
	}
	return stored, errors.Join(err, disk.Put(ctx, key, cred))
}

// forget removes the credentials of a server from a file, and from the helper that it names.
func (c *Client) forget(ctx context.Context, file, server string) (from []Stored, err error) {
	f, err := readAuthFile(file)
	if err != nil {
		return nil, err
	}
	if helper := f.helper(server); helper != "" {
		key := helperKey(server)
		cred, helperErr := c.askHelper(ctx, helper, key)
		if helperErr == nil && cred != auth.EmptyCredential {
			if _, _, helperErr = c.runHelper(ctx, helper, "erase", []byte(key)); helperErr == nil {
				from = append(from, Stored{file, helper})
			}
		}
		err = helperErr
	}
	keys := f.keys(server)
	if len(keys) == 0 {
		return from, err
	}
	disk, diskErr := fileStore(file)
	if diskErr != nil {
		return from, errors.Join(err, diskErr)
	}
	for _, key := range keys {
		diskErr = errors.Join(diskErr, disk.Delete(ctx, key))
	}
	if diskErr == nil && len(from) == 0 {
		from = append(from, Stored{File: file})
	}
	return from, errors.Join(err, diskErr)
}

// fileStore writes to a file of docker's format, whole or not at all, readable by its owner alone,
// and leaves what else is in it. A file that is a link stays one.
func fileStore(file string) (*credentials.FileStore, error) {
	target, err := filepath.EvalSymlinks(file)
	if errors.Is(err, fs.ErrNotExist) {
		target, err = file, nil
	}
	if err != nil {
		return nil, err
	}
	return credentials.NewFileStore(target)
}

// RegistryName is the name in references of what people log in to: docker's fingers type URLs.
// Errors: [errdefs.ErrInvalidArgument].
func RegistryName(host string) (string, error) {
	name := normalKey(host)
	if r, err := ref.Parse(name + "/x"); err != nil || r.Registry() != name {
		return "", fmt.Errorf("registry %q: want HOST[:PORT]: %w", host, errdefs.ErrInvalidArgument)
	}
	return name, nil
}

// A refusedError is a registry's answer to a wrong password. It is an [errdefs.ErrUnauthenticated].
type refusedError struct{ message string }

func (e *refusedError) Error() string {
	s := refusal
	if e.message != "" {
		s += ": " + e.message
	}
	return s
}

func (e *refusedError) Unwrap() error { return errdefs.ErrUnauthenticated }

// accepts asks a registry whether it takes the credentials of c.
func (c *Client) accepts(ctx context.Context, name string) error {
	r, err := ref.Parse(name + "/x")
	if err != nil {
		return err
	}
	list, err := c.endpoints(r, 0)
	if err != nil {
		return err
	}
	var others []string
	for _, e := range list {
		if e.ns != "" {
			others = append(others, e.URL.Host) // that stand in for the registry
			continue
		}
		req := pingRequest()
		resp, err := e.send(ctx, req)
		if err == nil && resp.StatusCode == http.StatusOK {
			return resp.Body.Close()
		}
		if err == nil {
			err = answered(resp, req.what)
		}
		var answer *Error
		if errors.As(err, &answer) && answer.Status == http.StatusUnauthorized {
			return &refusedError{answer.Message}
		}
		var network *NetworkError
		if errors.As(err, &network) && network.Host == name {
			return fmt.Errorf("%s: %w", network.Reason, errdefs.ErrUnavailable) // who it is about is told already
		}
		return err
	}
	return fmt.Errorf("its configuration has others stand in for it, which have credentials of their own: %s: %w",
		strings.Join(others, ", "), errdefs.ErrFailedPrecondition)
}

// pingRequest asks a server whether it is a registry that takes our credentials.
func pingRequest() request {
	return request{method: http.MethodGet, what: "its version", scopes: []string{}}
}
