package dir

import (
	"errors"
	"io/fs"
)

// heal puts away what kept the data file in the folder dir from being opened. It returns nil if
// another try may go better, and the error of the last one if not.
func (s *Store) heal(dir string, openErr error) error {
	if unwritable(openErr) {
		// A commit that was cut short may have left the file read-only.
		if err := s.disk.Chmod(dir+"/data", 0o644); err != nil {
			return openErr
		}
		return nil
	}
	for _, name := range []string{dir, dir + "/data"} {
		fi, err := s.disk.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // another writer has just ended
		case err != nil:
			return openErr
		case name == dir && !fi.IsDir(), name != dir && !fi.Mode().IsRegular():
			return s.removeAll(name)
		}
	}
	return openErr
}

// sweep removes from an ingest's folder what does not belong there.
func (s *Store) sweep(dir string) error {
	entries, err := s.disk.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		known := e.Name() == "data" || e.Name() == "state"
		if known && e.Type().IsRegular() {
			continue
		}
		if err := s.removeAll(dir + "/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
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

// tidy removes the folder of an ingest whose data has become a blob. What is left of it when
// that fails does no harm and goes with the next Begin of its key.
func (s *Store) tidy(dir string, hasState bool) {
	if hasState {
		_ = s.disk.Remove(dir + "/state")
	}
	_ = s.disk.Remove(dir)
}
