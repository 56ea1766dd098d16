package dir

import (
	"errors"
	"io/fs"
)

// heal puts away what kept the file of an ingest from being opened. It returns nil if another
// try may go better, and the error of the last one if not.
func (s *Store) heal(path string, openErr error) error {
	if unwritable(openErr) {
		// A commit that was cut short may have left the file read-only.
		if err := s.disk.Chmod(path, 0o644); err != nil {
			return openErr
		}
		return nil
	}
	if errors.Is(openErr, fs.ErrNotExist) {
		return s.makeFolders()
	}
	fi, err := s.disk.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // another writer has just ended
	case err == nil && !fi.Mode().IsRegular():
		return s.removeAll(path)
	}
	return openErr
}

// strange gives the error of a state file that could not be opened; one that is no file at all
// is put away, and is then as good as absent.
func (s *Store) strange(path string, openErr error) error {
	if errors.Is(openErr, fs.ErrNotExist) {
		return openErr
	}
	fi, err := s.disk.Lstat(path)
	if err != nil || fi.Mode().IsRegular() {
		return openErr
	}
	if err := s.removeAll(path); err != nil {
		return err
	}
	return fs.ErrNotExist
}

func (s *Store) removeAll(name string) error {
	fi, err := s.disk.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.IsDir() {
		entries, err := s.disk.ReadDir(name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := s.removeAll(name + "/" + e.Name()); err != nil {
				return err
			}
		}
	}
	return s.disk.Remove(name)
}
