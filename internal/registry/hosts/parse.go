package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
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

func (e *ParseError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Reason)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason)
}

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
}

// hostsFile is a whole file: what it says at the top is said of the server, which comes last.
type hostsFile struct {
	hostTable
	Server string               `toml:"server"`
	Host   map[string]hostTable `toml:"host"`
}

// Parse reads a hosts.toml. Relative paths in it are relative to its folder. The last host has an
// empty URL when the file names no server. Errors are *[ParseError].
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
	var list []Host
	for _, name := range p.outline.hosts {
		h, err := p.host(name, f.Host[name], "host", name)
		if err != nil {
			return nil, err
		}
		list = append(list, h)
	}
	server, err := p.host(f.Server, f.hostTable)
	if err != nil {
		return nil, err
	}
	return append(list, server), nil
}

// A parser turns the tables of one file into hosts.
type parser struct {
	file, dir string
	outline   outline
}

// fail reports what is wrong at a key.
func (p *parser) fail(key []string, format string, args ...any) error {
	return &ParseError{File: p.file, Line: p.outline.line(key), Reason: fmt.Sprintf(format, args...)}
}

// syntax puts an error of the decoder into our words.
func (p *parser) syntax(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		e := unknown.Errors[0]
		line, _ := e.Position()
		return &ParseError{p.file, line, "unknown key " + strings.Join(e.Key(), ".")}
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
	for name, value := range t.Header {
		list, err := texts(value)
		if err != nil {
			return Host{}, p.fail(append(key("header"), name), "header %s is %v", name, err)
		}
		if h.Header == nil {
			h.Header = http.Header{}
		}
		h.Header[http.CanonicalHeaderKey(name)] = append(h.Header[http.CanonicalHeaderKey(name)], list...)
	}
	if t.DialTimeout != "" {
		h.DialTimeout, err = time.ParseDuration(t.DialTimeout)
		if err != nil || h.DialTimeout <= 0 {
			return Host{}, p.fail(key("dial_timeout"), "dial_timeout is %q, and not a duration like 5s", t.DialTimeout)
		}
	}
	h.SkipVerify = t.SkipVerify != nil && *t.SkipVerify
	h.explicitTLS = h.CA != nil || h.Client != nil || t.SkipVerify != nil
	return h, nil
}

// serverURL reads the URL of a host. Without a scheme it is https; to its path /v2 is added,
// unless it ends so or override says that it is whole.
func serverURL(server string, override bool) (url.URL, error) {
	if !strings.HasPrefix(server, "http://") && !strings.HasPrefix(server, "https://") {
		if strings.Contains(server, "://") {
			return url.URL{}, fmt.Errorf("%q is neither http nor https", server)
		}
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" {
		return url.URL{}, fmt.Errorf("%q is not a URL", server)
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
