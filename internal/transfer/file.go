package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// WriteFile has write fill the file called name. The bytes go to a file beside it, which takes
// the name only when they are complete, and, unless nosync, on stable storage: whatever
// happens, there is never half a file under the name. A name that stands for something other
// than a regular file, such as a pipe, is written to directly.
func WriteFile(name string, nosync bool, write func(io.Writer) error) (err error) {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return fmt.Errorf("write %s: is a directory: %w", name, errdefs.ErrInvalidArgument)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".part-*")
	if err != nil {
		return called(err, "create", name)
	}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := write(partFile{f, name}); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if !nosync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	done = true
	if err := f.Close(); err != nil {
		return err
	}
	if nosync {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// partFile is what becomes the file called name.
type partFile struct {
	file *os.File
	name string
}

func (f partFile) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	return n, called(err, "write", f.name)
}

// called is an error about a file whose own name is nothing to the caller.
func called(err error, op, name string) error {
	var beside *fs.PathError
	if errors.As(err, &beside) {
		return &fs.PathError{Op: op, Path: name, Err: beside.Err}
	}
	return err
}
