package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/flock"
)

// A Daemon says which process serves a root, and where. It is the file daemon.json in the root, which
// is locked for as long as the process lives.
type Daemon struct {
	Address string `json:"address"`
	PID     int    `json:"pid"`
	Version string `json:"version"`
}

// Claim makes this process the only one that serves root, until release is called or it dies. Errors:
// [errdefs.ErrFailedPrecondition] if another does.
func Claim(root, address, version string) (release func() error, err error) {
	name := filepath.Join(root, "daemon.json")
	f, err := flock.TryOpen(flock.Exclusive, func() (*os.File, error) { return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644) })
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", root, err)
	}
	if f == nil {
		return nil, fmt.Errorf("serve %s: %s: %w", root, other(name), errdefs.ErrFailedPrecondition)
	}
	b, err := json.Marshal(Daemon{Address: address, PID: os.Getpid(), Version: version})
	if err == nil {
		err = f.Truncate(0) // of one that was killed
	}
	if err == nil {
		_, err = f.WriteAt(append(b, '\n'), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve %s: %w", root, err), f.Close())
	}
	return func() error { return errors.Join(os.Remove(name), f.Close()) }, nil
}

// other says who serves a root, as far as it can be known.
func other(name string) string {
	var d Daemon
	if b, err := os.ReadFile(name); err != nil || json.Unmarshal(b, &d) != nil {
		return "another daemon serves it"
	}
	return fmt.Sprintf("the daemon with process id %d serves it on %s", d.PID, d.Address)
}
