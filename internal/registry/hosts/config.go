package hosts

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// registryTable is the section as it stands in the file.
type registryTable struct {
	ConfigPath string                 `toml:"config_path"`
	Mirrors    map[string]mirrorTable `toml:"mirrors"`
	Configs    map[string]configTable `toml:"configs"`
	Auths      map[string]authTable   `toml:"auths"` // by URL: how configs.<host>.auth once was written
	Headers    map[string][]string    `toml:"headers"`
}

type mirrorTable struct {
	Endpoint []string `toml:"endpoint"`
}

type configTable struct {
	Auth *authTable `toml:"auth"`
	TLS  *tlsTable  `toml:"tls"`
}

type authTable struct {
	Username      string `toml:"username"`
	Password      string `toml:"password"`
	Auth          string `toml:"auth"` // username:password in base64
	IdentityToken string `toml:"identitytoken"`
}

type tlsTable struct {
	SkipVerify bool   `toml:"insecure_skip_verify"`
	CAFile     string `toml:"ca_file"`
	CertFile   string `toml:"cert_file"`
	KeyFile    string `toml:"key_file"`
}

// configFile is what is read of a config.toml, whosever it is.
type configFile struct {
	Version  int           `toml:"version"`
	Imports  []string      `toml:"imports"`
	Registry registryTable `toml:"registry"`
	Plugins  struct {
		V1 pluginTable `toml:"cri"`
		V2 pluginTable `toml:"io.containerd.grpc.v1.cri"`
		V3 pluginTable `toml:"io.containerd.cri.v1.images"`
	} `toml:"plugins"`
}

type pluginTable struct {
	Registry registryTable `toml:"registry"`
}

// The keys under which the section stands.
var (
	sectionOwn = []string{"registry"}
	sectionV1  = []string{"plugins", "cri", "registry"}
	sectionV2  = []string{"plugins", "io.containerd.grpc.v1.cri", "registry"}
	sectionV3  = []string{"plugins", "io.containerd.cri.v1.images", "registry"}
)

// maxFiles bounds how many files a configuration is made of.
const maxFiles = 64

// ReadConfig reads the registry section of the config.toml b. If the file is containerd's, which its
// version tells (or plugins.cri, of the first version, which had none), the files that it imports are
// read too, a later one having the last word, and containerd is true: nothing else in it is meant for
// stowage. Relative paths are relative to the folder of their file. Errors in what the files say are
// *[ParseError].
func ReadConfig(file string, b []byte) (t Tables, containerd bool, err error) {
	t, imports, containerd, err := parseConfig(file, b, false)
	if err != nil {
		return Tables{}, containerd, err
	}
	for seen := map[string]bool{file: true}; len(imports) > 0; imports = imports[1:] {
		name := imports[0]
		if seen[name] {
			continue
		}
		if seen[name] = true; len(seen) > maxFiles {
			return Tables{}, true, &ParseError{File: file, Reason: fmt.Sprintf("it imports more than %d files", maxFiles-1)}
		}
		b, err := readFile(name)
		if err != nil {
			return Tables{}, true, fmt.Errorf("%s: import: %v: %w", file, err, errdefs.ErrInvalidArgument)
		}
		more, further, _, err := parseConfig(name, b, true)
		if err != nil {
			return Tables{}, true, err
		}
		t.merge(more)
		imports = append(imports, further...)
	}
	return t, containerd, t.check()
}

// parseConfig reads one file and tells which others it imports. What containerd's file imports is its
// too, whatever it says.
func parseConfig(file string, b []byte, imported bool) (t Tables, imports []string, containerd bool, err error) {
	p := parser{file: file, dir: filepath.Dir(file)}
	if len(b) > maxFile {
		return t, nil, false, p.fail(nil, "it has more than %d bytes", maxFile)
	}
	var f configFile
	d := toml.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err = d.Decode(&f)
	var unknown *toml.StrictMissingError
	if err != nil && !errors.As(err, &unknown) {
		return t, nil, false, p.syntax(err)
	}
	p.outline = readOutline(b)
	if containerd = imported || f.Version != 0 || p.outline.has("plugins", "cri"); containerd {
		if imports, err = p.imports(f.Imports); err != nil {
			return t, nil, true, err
		}
		section, at := f.containerds(&p.outline)
		t, err = p.tables(section, at)
		return t, imports, true, err
	}
	if unknown != nil {
		for _, e := range unknown.Errors {
			if key := e.Key(); key[0] == "registry" || key[0] == "plugins" {
				return t, nil, false, p.syntax(&toml.StrictMissingError{Errors: []toml.DecodeError{e}})
			}
		}
	}
	section, at, err := f.own(&p)
	if err == nil {
		t, err = p.tables(section, at)
	}
	if dirs := []string{"hosts_dirs"}; err == nil && p.outline.has(dirs...) {
		if t.dirsAt != "" {
			return t, nil, false, p.fail(dirs, "hosts_dirs is said as config_path at %s already", t.dirsAt)
		}
		t.dirsAt = p.at(dirs)
	}
	return t, nil, false, err
}

// own chooses the section of a file of ours, which has one at most, and tells its key.
func (f *configFile) own(p *parser) (registryTable, []string, error) {
	section, at := f.Registry, sectionOwn
	for _, other := range []struct {
		section registryTable
		at      []string
	}{{f.Plugins.V2.Registry, sectionV2}, {f.Plugins.V3.Registry, sectionV3}} {
		switch {
		case !p.outline.has(other.at...):
		case p.outline.has(at...):
			return section, at, p.fail(other.at, "the registry section stands at %s already", p.at(at))
		default:
			section, at = other.section, other.at
		}
	}
	return section, at, nil
}

// containerds chooses the section that containerd would read, and tells its key.
func (f *configFile) containerds(o *outline) (registryTable, []string) {
	switch {
	case f.Version < 3 && o.has(sectionV1...):
		return f.Plugins.V1.Registry, sectionV1
	case f.Version < 3 && o.has(sectionV2...):
		return f.Plugins.V2.Registry, sectionV2
	}
	return f.Plugins.V3.Registry, sectionV3
}

// imports lists the files that containerd would read after this one.
func (p *parser) imports(patterns []string) ([]string, error) {
	var files []string
	for _, pattern := range patterns {
		pattern = p.abs(filepath.Clean(pattern))
		if !strings.Contains(pattern, "*") {
			files = append(files, pattern)
			continue
		}
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, p.fail([]string{"imports"}, "imports: %v", err)
		}
		files = append(files, found...)
	}
	return files, nil
}

// tables makes sense of the section that stands at a key.
func (p *parser) tables(section registryTable, at []string) (Tables, error) {
	key := func(names ...string) []string { return append(at[:len(at):len(at)], names...) }
	t := Tables{file: p.file, configs: map[string]hostConfig{}, Mirrors: map[string]Mirror{}}
	for _, dir := range filepath.SplitList(section.ConfigPath) {
		if dir != "" {
			t.Dirs = append(t.Dirs, p.abs(dir))
			t.dirsAt = p.at(key("config_path"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(section.Mirrors)) {
		m := Mirror{at: p.at(key("mirrors", name))}
		if len(section.Mirrors[name].Endpoint) > maxHosts {
			return t, p.fail(key("mirrors", name), "more than %d endpoints", maxHosts)
		}
		for _, text := range section.Mirrors[name].Endpoint {
			u, err := endpointURL(text)
			if err != nil {
				return t, p.fail(key("mirrors", name, "endpoint"), "endpoint %v", err)
			}
			m.hosts = append(m.hosts, Host{URL: u, Capabilities: Pull | Resolve | Referrers, Why: "mirrors table at " + m.at})
		}
		t.Mirrors[name] = m
	}
	for _, name := range slices.Sorted(maps.Keys(section.Configs)) {
		table := section.Configs[name]
		c := hostConfig{at: p.at(key("configs", name))}
		var err error
		if table.Auth != nil {
			if c.auth, err = p.auth(*table.Auth, key("configs", name, "auth")); err != nil {
				return t, err
			}
		}
		if s := table.TLS; s != nil && *s != (tlsTable{}) {
			if (s.CertFile == "") != (s.KeyFile == "") {
				return t, p.fail(key("configs", name, "tls"), "cert_file and key_file need each other")
			}
			c.tls = &tlsTable{s.SkipVerify, p.abs(s.CAFile), p.abs(s.CertFile), p.abs(s.KeyFile)}
		}
		t.configs[name] = c
	}
	for _, name := range slices.Sorted(maps.Keys(section.Auths)) {
		host := name
		if _, after, ok := strings.Cut(name, "://"); ok {
			host, _, _ = strings.Cut(after, "/")
		}
		auth, err := p.auth(section.Auths[name], key("auths", name))
		if err != nil {
			return t, err
		}
		c := t.configs[host]
		c.auth, c.at = auth, p.at(key("auths", name))
		t.configs[host] = c
	}
	header := map[string]any{}
	for name, values := range section.Headers {
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		header[name] = list
	}
	var err error
	t.header, err = p.header(header, key("headers"))
	return t, err
}

// auth reads what to log in with; nil is nothing. What comes first is containerd's choice.
func (p *parser) auth(table authTable, at []string) (*Auth, error) {
	a := Auth{Source: p.at(at)}
	switch {
	case table.Username != "":
		a.Username, a.Password = table.Username, table.Password
	case table.IdentityToken != "":
		a.IdentityToken = table.IdentityToken
	case table.Auth != "":
		b, err := base64.StdEncoding.DecodeString(table.Auth)
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok {
			return nil, p.fail(append(at, "auth"), "auth is not username:password in base64")
		}
		a.Username, a.Password = user, strings.Trim(password, "\x00")
	default:
		return nil, nil
	}
	return &a, nil
}

// endpointURL reads the URL of a mirror. Its path is /v2 unless it has one.
func endpointURL(s string) (url.URL, error) {
	if !strings.Contains(s, "://") {
		scheme := "https://"
		if host, _, _ := strings.Cut(s, "/"); loopback(host) {
			scheme = "http://"
		}
		s = scheme + s
	}
	_, rest, _ := strings.Cut(s, "://")
	return serverURL(s, strings.Contains(rest, "/"))
}
