// Package config turns files and the environment into typed options. Nothing else in stowage
// reads either.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/stowage/stowage/internal/registry/hosts"
)

// DefaultFile is read when no other is named; it need not be there.
const DefaultFile = "/etc/stowage/config.toml"

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// A Config is what was configured. Fields that nothing set hold their defaults.
type Config struct {
	// Root is the folder of the embedded store.
	Root string `toml:"root"`
	// Address is a socket whose content commands work on instead of Root; empty: Root.
	Address string `toml:"-"`
	// Namespace is the one that commands work in.
	Namespace string `toml:"namespace"`
	// Sync is full or none: whether bytes are forced to stable storage.
	Sync string `toml:"sync"`
	// HostsDirs hold the folders with each registry's hosts.toml, the first hit counts.
	HostsDirs []string `toml:"hosts_dirs"`
	// Registry is the section that containerd's config.toml has too. Its config_path is in HostsDirs.
	Registry hosts.Tables `toml:"-"`
	// MaxConcurrent is how many blobs are moved at once; 0: 4.
	MaxConcurrent int `toml:"max_concurrent"`

	// Snapshotter is overlay, erofs or native; empty: the best that works.
	Snapshotter string `toml:"snapshotter"`
	// Snapshotters are those of other programs, by name.
	Snapshotters map[string]Snapshotter `toml:"snapshotters"`
	// Unpack bounds what layers may cost and lack.
	Unpack Unpack `toml:"unpack"`

	// GC says when what is not needed goes.
	GC GC `toml:"gc"`

	// Doctor says when damage is looked for.
	Doctor Doctor `toml:"doctor"`
	// Server is about the daemon.
	Server Server `toml:"server"`
	// CRI is about what the daemon does for Kubernetes.
	CRI CRI `toml:"cri"`

	// AuthFiles hold registry credentials in docker's format, and are asked in order.
	AuthFiles []string `toml:"-"`

	origins map[string]string // who set a key; no entry: nobody did
}

// A Snapshotter is that of another program, which speaks containerd's snapshots API.
type Snapshotter struct {
	Address string `toml:"address" json:"address"` // of its unix socket
	Name    string `toml:"name" json:"name"`       // that it has there; empty: the same as here
}

// Unpack says what layers may cost and lack when they are unpacked. Zero: the default.
type Unpack struct {
	MaxSize    int64  `toml:"max_size"`    // bytes of one layer's files
	MaxEntries int64  `toml:"max_entries"` // of one layer
	MaxRatio   int64  `toml:"max_ratio"`   // how many times as large as its blob a layer may be
	Losses     string `toml:"losses"`      // refuse or report what cannot be kept
	Filter     string `toml:"filter"`      // auto, off or always: whether igzip decompresses, where it is
}

// Load reads file, or [DefaultFile] when it is empty, and then the environment, which has the
// last word. The file may be containerd's, of which only the registry section is taken. getenv and
// uid are those of the process.
func Load(file string, getenv func(string) string, uid int) (*Config, error) {
	c := &Config{Namespace: "default", Sync: "full", GC: defaultGC, Doctor: Doctor{Schedule: Duration(24 * time.Hour)}, Server: Server{Fetch: true, Grace: Duration(30 * time.Second)}}
	if file == "" {
		file = getenv("STOWAGE_CONFIG")
	}
	named := file != ""
	if !named {
		file = DefaultFile
	}
	b, err := os.ReadFile(file)
	switch {
	case err == nil:
		if err := c.parse(file, b); err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
	case named || !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	// The first variable that is set counts.
	set := func(key string, to *string, names ...string) {
		for _, n := range names {
			if v := getenv(n); v != "" {
				*to = v
				c.Note(key, n)
				return
			}
		}
	}
	set("root", &c.Root, "STOWAGE_ROOT")
	set("address", &c.Address, "STOWAGE_ADDRESS", "CONTAINERD_ADDRESS")
	set("namespace", &c.Namespace, "STOWAGE_NAMESPACE", "CONTAINERD_NAMESPACE")
	set("snapshotter", &c.Snapshotter, "STOWAGE_SNAPSHOTTER", "CONTAINERD_SNAPSHOTTER")
	set("server.address", &c.Server.Address, "STOWAGE_ADDRESS")
	if c.Server.Address == "" {
		c.Server.Address = defaultAddress(getenv, uid)
	}
	home := getenv("HOME")
	if c.Root == "" {
		if c.Root = defaultRoot(getenv, home, uid); c.Root == "" {
			return nil, fmt.Errorf("find a folder for the store: neither XDG_DATA_HOME nor HOME is set: %w", errdefs.ErrInvalidArgument)
		}
	}
	if len(c.HostsDirs) == 0 {
		c.HostsDirs = []string{"/etc/stowage/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"}
	}
	c.AuthFiles = authFiles(getenv, home)
	return c, nil
}

// parse reads the bytes of a file, whose name is for what is relative to it and for errors.
func (c *Config) parse(file string, b []byte) error {
	if len(b) > maxFile {
		return fmt.Errorf("%s: %d bytes where at most %d are read: %w", file, len(b), maxFile, errdefs.ErrInvalidArgument)
	}
	tables, containerds, err := hosts.ReadConfig(file, b)
	if err != nil {
		return err
	}
	c.Registry = tables
	if !containerds {
		if err := c.decode(file, b); err != nil {
			return err
		}
	}
	if len(tables.Dirs) > 0 {
		c.HostsDirs = tables.Dirs
		c.Note("hosts_dirs", file)
	}
	if err := c.GC.check(); err != nil {
		return fmt.Errorf("%s: gc: %w", file, err)
	}
	if c.Doctor.Schedule < 0 {
		return fmt.Errorf("%s: doctor: schedule %s is below zero: %w", file, time.Duration(c.Doctor.Schedule), errdefs.ErrInvalidArgument)
	}
	if err := c.Server.check(); err != nil {
		return fmt.Errorf("%s: server: %w", file, err)
	}
	return nil
}

// decode reads what is stowage's own. The registry section is not: it was read before.
func (c *Config) decode(file string, b []byte) error {
	own := struct {
		*Config
		Registry any `toml:"registry"`
		Plugins  any `toml:"plugins"`
	}{Config: c}
	d := toml.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(&own)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		line, _ := e.Position()
		return fmt.Errorf("%s:%d: unknown key %s: %w", file, line, strings.Join(e.Key(), "."), errdefs.ErrInvalidArgument)
	}
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		line, _ := syntax.Position()
		return fmt.Errorf("%s:%d: %s: %w", file, line, strings.TrimPrefix(syntax.Error(), "toml: "), errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	var keys map[string]any
	if err := toml.Unmarshal(b, &keys); err != nil {
		return err
	}
	c.noteFile(file, keys)
	return nil
}

func defaultRoot(getenv func(string) string, home string, uid int) string {
	if uid == 0 {
		return "/var/lib/stowage"
	}
	if data := getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "stowage")
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".local/share/stowage")
}

// authFiles lists where docker, podman and skopeo keep credentials.
func authFiles(getenv func(string) string, home string) []string {
	if f := getenv("REGISTRY_AUTH_FILE"); f != "" {
		return []string{f}
	}
	var files []string
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if home != "" {
		files = append(files, filepath.Join(home, ".docker/config.json"))
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	}
	return files
}
