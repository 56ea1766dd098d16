package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// maxFile bounds a hosts.toml, in bytes.
const maxFile = 1 << 20

// find returns the first folder that is there for a registry, or nothing, and where it looked.
func find(dirs []string, registry string) (dir string, looked []Look, err error) {
	for _, dir := range dirs {
		for _, name := range folders(registry) {
			path := filepath.Join(dir, name)
			info, err := os.Stat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				looked = append(looked, Look{path, "not there"})
				continue
			case err != nil:
				return "", looked, fmt.Errorf("find hosts of %s: %w", registry, err)
			case !info.IsDir():
				return "", looked, fmt.Errorf("find hosts of %s: %s is not a folder: %w", registry, path, errdefs.ErrInvalidArgument)
			}
			return path, looked, nil
		}
	}
	return "", looked, nil
}

// folders lists the names that a registry's folder may have, the most telling first.
func folders(registry string) []string {
	names := []string{registry, "_default"}
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		// Not every filesystem takes a colon.
		names = append([]string{registry[:i] + "_" + registry[i+1:] + "_"}, names...)
	}
	return names
}

// read reads what the folder dir says, and in which file. The last host has no URL when the registry
// itself is meant.
func read(dir string) (list []Host, source string, err error) {
	file := filepath.Join(dir, "hosts.toml")
	b, err := readFile(file)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, file, fmt.Errorf("read %s: %w", file, err)
	case len(b) == 0:
		list, err = certificates(dir)
		return list, dir, err
	}
	if list, err = Parse(file, b); err != nil {
		return nil, file, err
	}
	for _, h := range list {
		if h.Auth == nil {
			continue
		}
		if h.Auth.Password, err = readPassword(h.passwordFile); err != nil {
			return nil, file, fmt.Errorf("%s: %w", h.Auth.Source, err)
		}
	}
	return list, file, nil
}

// readFile reads a file that should have at most maxFile bytes, and at least one more of a longer one.
func readFile(name string) (b []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// maxPassword bounds a file with a password, in bytes.
const maxPassword = 64 << 10

// readPassword reads a file that holds a password and perhaps the end of its line.
func readPassword(file string) (string, error) {
	b, err := readFile(file)
	if err != nil {
		return "", fmt.Errorf("password_file: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 || len(b) > maxPassword {
		return "", fmt.Errorf("password_file %s has no password, or more than %d bytes: %w", file, maxPassword, errdefs.ErrInvalidArgument)
	}
	return string(b), nil
}

// certificates reads docker's layout: *.crt are authorities to believe in, *.cert with the *.key
// beside it is what to show. Without one, the key is expected in the certificate's file.
func certificates(dir string) ([]Host, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	h := Host{Why: "the registry itself, as " + dir + " names no server"}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".crt":
			h.CA = append(h.CA, path)
		case ".cert":
			key := strings.TrimSuffix(path, ".cert") + ".key"
			if _, err := os.Stat(key); errors.Is(err, fs.ErrNotExist) {
				key = ""
			} else if err != nil {
				return nil, fmt.Errorf("read %s: the key for %s: %w", dir, e.Name(), err)
			}
			h.Client = append(h.Client, KeyPair{Cert: path, Key: key})
		}
	}
	h.explicitTLS = len(h.CA) > 0 || len(h.Client) > 0
	return []Host{h}, nil
}
