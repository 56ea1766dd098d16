package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
)

const quarantineDir = "content/quarantine"

// Quarantine implements [content.Store]. The file is renamed, so that whoever has it open goes on.
func (s *Store) Quarantine(_ context.Context, d digest.Digest) (string, error) {
	err := content.Validate(d)
	name := ""
	if err == nil {
		name, err = s.quarantine(d)
	}
	if err != nil {
		return "", fmt.Errorf("quarantine blob %s: %w", d, absent(err))
	}
	return name, nil
}

func (s *Store) quarantine(d digest.Digest) (string, error) {
	if err := s.mkdir(quarantineDir, 0o700); err != nil {
		return "", err
	}
	name, err := s.freeName(quarantineDir + "/" + d.Algorithm().String() + "-" + d.Encoded())
	if err != nil {
		return "", err
	}
	if err := s.disk.Rename(blobPath(d), name); err != nil {
		return "", err
	}
	// Its new name first: a power loss must not leave it without any.
	for _, folder := range []string{"content", quarantineDir, algorithmDir(d.Algorithm())} {
		if err := s.disk.SyncDir(folder); err != nil {
			return "", err
		}
	}
	return name, nil
}

// freeName is the name, or one with a number behind it if that is taken.
func (s *Store) freeName(name string) (string, error) {
	for n, free := 1, name; ; n, free = n+1, fmt.Sprintf("%s-%d", name, n) {
		_, err := s.disk.Lstat(free)
		if errors.Is(err, fs.ErrNotExist) {
			return free, nil
		}
		if err != nil {
			return "", err
		}
	}
}
