package stowage

import (
	"context"
	"fmt"

	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/registry"
)

type (
	// StoredCredentials says where credentials are kept.
	StoredCredentials = registry.Stored
	// RegistryExplanation says how a registry is reached, and why so.
	RegistryExplanation = registry.Explanation
)

// CheckRegistry tells whether host can be logged in to. Errors: [errdefs.ErrInvalidArgument], with
// the reason.
func CheckRegistry(host string) error {
	_, err := registry.RegistryName(host)
	return err
}

// Login asks a registry whether it takes a user name and a password, and if so keeps them where
// docker does: with a credential helper, or in the first of o.AuthFiles. Errors:
// [errdefs.ErrUnauthenticated] when it refuses them; [errdefs.ErrUnavailable];
// [errdefs.ErrInvalidArgument]; [errdefs.ErrFailedPrecondition] when only others are asked in place
// of the registry.
func Login(ctx context.Context, o RegistryOptions, host, username, password string) (StoredCredentials, error) {
	c := registry.New(o)
	defer c.Close()
	return c.Login(ctx, host, username, password)
}

// Logout forgets the credentials of a registry wherever o.AuthFiles say that there are some, and
// tells where there were; nowhere is no error.
func Logout(ctx context.Context, o RegistryOptions, host string) ([]StoredCredentials, error) {
	c := registry.New(o)
	defer c.Close()
	return c.Logout(ctx, host)
}

// ExplainRegistry says how the image that reference names is reached. try has each server asked for
// it. Errors: [errdefs.ErrInvalidArgument] for a reference or a file that is malformed.
func ExplainRegistry(ctx context.Context, o RegistryOptions, reference string, try bool) (*RegistryExplanation, error) {
	r, err := ref.Parse(reference)
	if err != nil {
		return nil, err
	}
	c := registry.New(o)
	defer c.Close()
	x, err := c.Explain(ctx, r, try)
	if err != nil {
		return nil, fmt.Errorf("explain %s: %w", r, err)
	}
	return x, nil
}
