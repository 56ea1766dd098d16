package hosts

import (
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

// find returns the first folder that is there for a registry, or nothing.
func find(dirs []string, registry string) (string, error) {
	for _, dir := range dirs {
		for _, name := range folders(registry) {
			path := filepath.Join(dir, name)
			info, err := os.Stat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue
			case err != nil:
				return "", fmt.Errorf("find hosts of %s: %w", registry, err)
			case !info.IsDir():
				return "", fmt.Errorf("find hosts of %s: %s is not a folder: %w", registry, path, errdefs.ErrInvalidArgument)
			}
			return path, nil
		}
	}
	return "", nil
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

// read reads what the folder dir says. The last host has no URL when the registry itself is meant.
func read(dir string) ([]Host, error) {
	file := filepath.Join(dir, "hosts.toml")
	b, err := readFile(file)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read %s: %w", file, err)
	case len(b) > 0:
		return Parse(file, b)
	}
	return certificates(dir)
}

func readFile(name string) (b []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// certificates reads docker's layout: *.crt are authorities to believe in, *.cert with the *.key
// beside it is what to show.
func certificates(dir string) ([]Host, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	var h Host
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".crt":
			h.CA = append(h.CA, path)
		case ".cert":
			key := strings.TrimSuffix(path, ".cert") + ".key"
			if _, err := os.Stat(key); err != nil {
				return nil, fmt.Errorf("read %s: the key for %s: %w", dir, e.Name(), err)
			}
			h.Client = append(h.Client, KeyPair{Cert: path, Key: key})
		}
	}
	h.explicitTLS = len(h.CA) > 0 || len(h.Client) > 0
	return []Host{h}, nil
}
