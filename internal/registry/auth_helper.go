package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	// maxHelperAnswer bounds what a credential helper says, in bytes.
	maxHelperAnswer = 64 << 10
	// notKnown is how helpers say that they have nothing, by the protocol of docker's.
	notKnown = "credentials not found in native keychain"
	// tokenUser stands for a user where the secret is an identity token.
	tokenUser = "<token>"
)

// A helperSecret is what helpers are told, and tell.
type helperSecret struct{ ServerURL, Username, Secret string }

// askHelper gets the credentials of a server from a helper; none is no error.
func (c *Client) askHelper(ctx context.Context, helper, server string) (auth.Credential, error) {
	out, known, err := c.runHelper(ctx, helper, "get", []byte(server))
	if err != nil || !known {
		return auth.EmptyCredential, err
	}
	var s helperSecret
	if json.Unmarshal(out, &s) != nil {
		return auth.EmptyCredential, fmt.Errorf("the credential helper docker-credential-%s gave no JSON", helper)
	}
	if s.Username == tokenUser {
		return auth.Credential{RefreshToken: s.Secret}, nil
	}
	return auth.Credential{Username: s.Username, Password: s.Secret}, nil
}

// runHelper runs docker-credential-HELPER with an action; known is false when it says that it knows
// nothing of the server. Secrets go through pipes alone, and are in no error: what the helper itself
// says is not told.
func (c *Client) runHelper(ctx context.Context, helper, action string, input []byte) (out []byte, known bool, err error) {
	name := "docker-credential-" + helper
	if strings.ContainsAny(helper, `/\`) {
		return nil, false, errors.New("the name of the credential helper is a path")
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.HelperTimeout)
	defer cancel()
	answer := &bounded{left: maxHelperAnswer}
	cmd := exec.CommandContext(ctx, name, action)
	cmd.Stdin, cmd.Stdout = bytes.NewReader(input), answer
	cmd.WaitDelay = time.Second // a child of the helper may hold the pipe
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return answer.bytes, true, nil
	case ctx.Err() == context.DeadlineExceeded:
		return nil, false, fmt.Errorf("the credential helper %s did not end within %s", name, c.o.HelperTimeout)
	case ctx.Err() != nil:
		return nil, false, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return nil, false, fmt.Errorf("the credential helper %s is not installed", name)
	case answer.left < 0:
		return nil, false, fmt.Errorf("the credential helper %s said more than %d bytes", name, maxHelperAnswer)
	case errors.As(err, &exit) && strings.TrimSpace(string(answer.bytes)) == notKnown:
		return nil, false, nil
	case errors.As(err, &exit):
		return nil, false, fmt.Errorf("the credential helper %s failed: %s", name, exit)
	}
	return nil, false, fmt.Errorf("the credential helper %s did not run: %w", name, innermost(err))
}

// bounded keeps what is written to it, up to a point.
type bounded struct {
	bytes []byte
	left  int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, io.ErrShortWrite
	}
	b.bytes = append(b.bytes, p...)
	return len(p), nil
}
