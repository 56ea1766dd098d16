package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// A ParseError reports what is wrong in a file, and where.
type ParseError struct {
	File   string
	Line   int // 0: the file as a whole
	Reason string
}

func (e *ParseError) Error() string { return place(e.File, e.Line) + ": " + e.Reason }

// Unwrap makes a ParseError an [errdefs.ErrInvalidArgument].
func (e *ParseError) Unwrap() error { return errdefs.ErrInvalidArgument }

// hostTable is what may be said of one host.
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a file, or a list of them
	Client       any            `toml:"client"` // a file, a list of files, or a list of pairs
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // to a string, or a list of them
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`

	// What containerd does not know.
	Fallback     *bool             `toml:"fallback"`
	Rewrite      map[string]string `toml:"rewrite"` // regular expression to replacement
	Proxy        string            `toml:"proxy"`
	Username     string            `toml:"username"`
	PasswordFile string            `toml:"password_file"`
}

// hostsFile is a whole file: what it says at the top is said of the server, which comes last.
type hostsFile struct {
	hostTable
	Server string               `toml:"server"`
	Host   map[string]hostTable `toml:"host"`
}

// maxHosts and maxRules bound what is asked in turn for one thing.
const (
	maxHosts = 64 // of a registry
	maxRules = 64 // rewrites of a host
)

// Parse reads a hosts.toml. Relative paths in it are relative to its folder. The last host has an
// empty URL when it is the registry itself. Passwords are left in their files. Errors are
// *[ParseError].
func Parse(file string, b []byte) ([]Host, error) {
	p := parser{file: file, dir: filepath.Dir(file)}
	if len(b) > maxFile {
		return nil, p.fail(nil, "it has more than %d bytes", maxFile)
	}
	var f hostsFile
	d := toml.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, p.syntax(err)
	}
	p.outline = readOutline(b)
	names, err := ordered(&p, f.Host, "host")
	if err != nil {
		return nil, err
	}
	if len(names) > maxHosts {
		return nil, p.fail([]string{"host", names[maxHosts]}, "more than %d hosts", maxHosts)
	}
	var list []Host
	for _, name := range names {
		at := []string{"host", name}
		if !p.outline.headed[id(at)] {
			return nil, p.fail(at, "host %s has no header of its own, [host.%q]: containerd would pass it over", shown(name), shown(name))
		}
		h, err := p.host(name, f.Host[name], at...)
		if err != nil {
			return nil, err
		}
		h.Why = "host at " + p.at(at)
		list = append(list, h)
	}
	server, err := p.host(f.Server, f.hostTable)
	if err != nil {
		return nil, err
	}
	switch {
	case server.final && f.Server != "":
		return nil, p.fail([]string{"fallback"}, "fallback = false, and yet there is a server to fall back to")
	case server.final && len(list) == 0:
		return nil, p.fail([]string{"fallback"}, "fallback = false leaves no host to ask")
	case server.final:
		return list, nil
	case f.Server != "":
		server.Why = "server at " + p.at([]string{"server"})
	default:
		server.Why = "the registry itself, as " + file + " names no server"
	}
	return append(list, server), nil
}

// A parser turns the tables of one file into hosts.
type parser struct {
	file, dir string
	outline   outline
}

// at is the place of a key, for people.
func (p *parser) at(key []string) string { return place(p.file, p.outline.line(key)) }

func place(file string, line int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// fail reports what is wrong at a key.
func (p *parser) fail(key []string, format string, args ...any) error {
	return &ParseError{File: p.file, Line: p.outline.line(key), Reason: fmt.Sprintf(format, args...)}
}

// ordered lists the keys of a table in the order of the file.
func ordered[T any](p *parser, table map[string]T, at ...string) ([]string, error) {
	names := p.outline.beneath[id(at)]
	if len(names) != len(table) {
		// The decoder takes upper case for lower case, and containerd does so only for some keys.
		return nil, p.fail(at, "%s is not written in lower case", at[len(at)-1])
	}
	return names, nil
}

// shown is text of a file without the password that a URL in it may have.
func shown(s string) string {
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return s
	}
	if scheme := strings.Index(s[:i], "://"); scheme >= 0 {
		return s[:scheme+3] + s[i+1:]
	}
	return s[i+1:]
}

// syntax puts an error of the decoder into our words.
func (p *parser) syntax(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		e := unknown.Errors[0]
		line, _ := e.Position()
		return &ParseError{p.file, line, "unknown key " + shown(strings.Join(e.Key(), "."))}
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, _ := bad.Position()
		return &ParseError{p.file, line, strings.TrimPrefix(bad.Error(), "toml: ")}
	}
	return &ParseError{p.file, 0, strings.TrimPrefix(err.Error(), "toml: ")}
}

// host reads one table; at is where it stands in the file.
func (p *parser) host(server string, t hostTable, at ...string) (Host, error) {
	key := func(name string) []string { return append(at[:len(at):len(at)], name) }
	var h Host
	var err error
	if server != "" {
		if h.URL, err = serverURL(server, t.OverridePath); err != nil {
			where := at
			if len(at) == 0 {
				where = key("server")
			}
			return Host{}, p.fail(where, "%v", err)
		}
	} else if len(at) > 0 {
		return Host{}, p.fail(at, "a host without a URL")
	}
	if h.Capabilities, err = capabilities(t.Capabilities); err != nil {
		return Host{}, p.fail(key("capabilities"), "%v", err)
	}
	if h.CA, err = p.paths(t.CA); err != nil {
		return Host{}, p.fail(key("ca"), "ca is %v", err)
	}
	if h.Client, err = p.pairs(t.Client); err != nil {
		return Host{}, p.fail(key("client"), "client is %v", err)
	}
	if h.Header, err = p.header(t.Header, key("header")); err != nil {
		return Host{}, err
	}
	if t.DialTimeout != "" {
		h.DialTimeout, err = time.ParseDuration(t.DialTimeout)
		if err != nil || h.DialTimeout <= 0 {
			return Host{}, p.fail(key("dial_timeout"), "dial_timeout is %q, and not a duration like 5s", t.DialTimeout)
		}
	}
	if h.Proxy, err = proxy(t.Proxy); err != nil {
		return Host{}, p.fail(key("proxy"), "%v", err)
	}
	if h.Rewrite, err = p.rewrites(t.Rewrite, key("rewrite")); err != nil {
		return Host{}, err
	}
	switch {
	case (t.Username == "") != (t.PasswordFile == ""):
		return Host{}, p.fail(at, "username and password_file need each other")
	case t.Username != "":
		h.Auth = &Auth{Username: t.Username, Source: p.at(key("username"))}
		h.passwordFile = p.abs(t.PasswordFile)
	}
	h.SkipVerify = t.SkipVerify != nil && *t.SkipVerify
	h.explicitTLS = h.CA != nil || h.Client != nil || t.SkipVerify != nil
	h.final = t.Fallback != nil && !*t.Fallback
	return h, nil
}

// header reads a table of headers.
func (p *parser) header(table map[string]any, at []string) (http.Header, error) {
	if len(table) == 0 {
		return nil, nil
	}
	names, err := ordered(p, table, at...)
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	for _, name := range names {
		list, err := texts(table[name])
		if err != nil {
			return nil, p.fail(append(at, name), "header %s is %v", name, err)
		}
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(tokens, r) }) {
			return nil, p.fail(append(at, name), "%q is no name of a header", name)
		}
		for _, value := range list {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				return nil, p.fail(append(at, name), "header %s has a control character in it", name)
			}
			header.Add(name, value)
		}
	}
	return header, nil
}

// tokens are the characters of a header's name (RFC 9110, section 5.6.2).
const tokens = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// rewrites reads a table of rules for repositories.
func (p *parser) rewrites(table map[string]string, at []string) ([]Rewrite, error) {
	if len(table) == 0 {
		return nil, nil
	}
	patterns, err := ordered(p, table, at...)
	if err != nil {
		return nil, err
	}
	if len(patterns) > maxRules {
		return nil, p.fail(append(at, patterns[maxRules]), "more than %d rules", maxRules)
	}
	var rules []Rewrite
	for _, pattern := range patterns {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, p.fail(append(at, pattern), "rewrite: %v", err)
		}
		rules = append(rules, Rewrite{Pattern: re, Replacement: table[pattern]})
	}
	return rules, nil
}

// proxy reads what a host is reached through.
func proxy(s string) (*url.URL, error) {
	switch s {
	case "":
		return nil, nil
	case "direct":
		return &url.URL{}, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
		return nil, fmt.Errorf("proxy is %q, and neither direct nor a URL of http, https or socks5", shown(s))
	}
	return u, nil
}

// serverURL reads the URL of a host. What does not begin as one is https; to its path /v2 is added,
// unless it ends so or override says that it is whole.
func serverURL(server string, override bool) (url.URL, error) {
	if !strings.HasPrefix(server, "http") { // not even as the name of a host: so does containerd
		if strings.Contains(server, "://") {
			return url.URL{}, fmt.Errorf("%q is neither http nor https", shown(server))
		}
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return url.URL{}, fmt.Errorf("%q is not a URL of http or https", shown(server))
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return url.URL{}, fmt.Errorf("the URL of %s has more than scheme, host and path", u.Host)
	}
	if u.Path != "" {
		u.Path = strings.TrimSuffix(path.Clean(u.Path), "/")
	}
	if !override && !strings.HasSuffix(u.Path, "/v2") {
		u.Path += "/v2"
	}
	return url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}, nil
}

func capabilities(names []string) (Capabilities, error) {
	if len(names) == 0 {
		return all, nil
	}
	var c Capabilities
	for _, name := range names {
		switch strings.ToLower(name) {
		case "pull":
			c |= Pull
		case "resolve":
			c |= Resolve
		case "push":
			c |= Push
		case "referrers":
			c |= Referrers
		default:
			return 0, fmt.Errorf("unknown capability %q; there are pull, resolve, push and referrers", name)
		}
	}
	return c, nil
}

var errNotTexts = errors.New("neither a string nor a list of strings")

// texts reads a string or a list of strings; nil is none.
func texts(value any) ([]string, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		list := make([]string, len(v))
		for i, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, errNotTexts
			}
			list[i] = s
		}
		return list, nil
	}
	return nil, errNotTexts
}

// paths reads one file name or several.
func (p *parser) paths(value any) ([]string, error) {
	list, err := texts(value)
	for i := range list {
		list[i] = p.abs(list[i])
	}
	return list, err
}

// pairs reads one file, a list of files, or a list of pairs of files.
func (p *parser) pairs(value any) ([]KeyPair, error) {
	list, ok := value.([]any)
	if !ok && value != nil {
		list = []any{value}
	}
	var pairs []KeyPair
	for _, item := range list {
		files, err := p.paths(item)
		_, single := item.(string)
		switch {
		case err != nil:
			return nil, errors.New("neither a file, a list of files, nor a list of pairs")
		case single:
			pairs = append(pairs, KeyPair{Cert: files[0]})
		case len(files) == 2:
			pairs = append(pairs, KeyPair{Cert: files[0], Key: files[1]})
		default:
			return nil, fmt.Errorf("a list with an item of %d files where a pair belongs", len(files))
		}
	}
	return pairs, nil
}

// abs makes a file name absolute. An empty one stays so: it is the absent half of a pair.
func (p *parser) abs(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(p.dir, name)
}
