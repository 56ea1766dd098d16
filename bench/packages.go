package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stowage/stowage/internal/imagetest"
)

// packages makes sure that the Debian packages are there, and returns their files in that order.
// Their names are those of Debian 12.
func (b *bench) packages(ctx context.Context, names []string) ([]string, error) {
	dir := filepath.Join(b.kept(), "packages")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	files := make([]string, len(names))
	for i, name := range names {
		file, err := packageFile(dir, name)
		if err == nil && file == "" {
			if err = b.download(ctx, dir, name); err == nil {
				file, err = packageFile(dir, name)
			}
		}
		if err != nil {
			return nil, err
		}
		files[i] = file
	}
	return files, nil
}

// packageFile finds a package that was downloaded before; empty if it was not.
func packageFile(dir, name string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}

// download gets a package into dir. A machine may have no lists of packages yet, or old ones that
// name versions that are gone; so the lists come first, once in a bench.
func (b *bench) download(ctx context.Context, dir, name string) error {
	if !b.listed {
		if _, err := runProcess(ctx, []string{"apt-get", "update", "-qq"}); err != nil {
			return err
		}
		b.listed = true
	}
	// apt-get downloads to where it runs.
	_, err := runProcess(ctx, []string{"env", "-C", dir, "apt-get", "download", "-qq", name})
	return err
}

// packed is a layer with all files of some packages: what dpkg would unpack, each folder once and
// before what is in it.
func packed(ctx context.Context, files []string) imagetest.Tar {
	return func(w io.Writer) error {
		out := tar.NewWriter(w)
		seen := map[string]bool{"": true} // a layer needs no entry for its root
		for _, file := range files {
			if err := addPackage(ctx, out, file, seen); err != nil {
				return fmt.Errorf("add %s: %w", filepath.Base(file), err)
			}
		}
		return out.Close()
	}
}

func addPackage(ctx context.Context, out *tar.Writer, file string, seen map[string]bool) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = copyEntries(out, tar.NewReader(stdout), seen)
	_, drained := io.Copy(io.Discard, stdout) // dpkg-deb must not wait for a reader
	return errors.Join(err, drained, cmd.Wait())
}

// copyEntries drops what dpkg puts before each name, and folders that out has.
func copyEntries(out *tar.Writer, in *tar.Reader, seen map[string]bool) error {
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		header.Name = strings.TrimPrefix(header.Name, "./")
		if seen[header.Name] {
			continue
		}
		seen[header.Name] = true
		if header.Typeflag == tar.TypeLink {
			header.Linkname = strings.TrimPrefix(header.Linkname, "./")
		}
		header.Format = tar.FormatUnknown // the plainest that can say it
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
