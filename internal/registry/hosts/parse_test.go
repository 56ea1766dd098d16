package hosts_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stowage/stowage/internal/registry/hosts"
)

const everything = hosts.Pull | hosts.Resolve | hosts.Push | hosts.Referrers

// brief is what the tests compare of a host.
type brief struct {
	URL          string
	Capabilities hosts.Capabilities
	CA           []string
	Client       []hosts.KeyPair
	SkipVerify   bool
	Header       http.Header
	DialTimeout  time.Duration
}

func briefs(list []hosts.Host) []brief {
	out := make([]brief, len(list))
	for i, h := range list {
		out[i] = brief{h.URL.String(), h.Capabilities, h.CA, h.Client, h.SkipVerify, h.Header, h.DialTimeout}
	}
	return out
}

func TestParse(t *testing.T) {
	server := brief{URL: "https://up.example/v2", Capabilities: everything}
	for _, tc := range []struct {
		name, file string
		want       []brief
	}{
		{"only comments", "# nothing\n", []brief{{Capabilities: everything}}},
		{"server", `server = "https://up.example"`, []brief{server}},
		{"server without scheme", `server = "up.example"`, []brief{server}},
		{"server with path", `server = "https://up.example/a/"`, []brief{{URL: "https://up.example/a/v2", Capabilities: everything}}},
		{"server with its path", `server = "https://up.example/a/v2"`, []brief{{URL: "https://up.example/a/v2", Capabilities: everything}}},
		{
			"override_path", "server = \"https://up.example/a\"\noverride_path = true",
			[]brief{{URL: "https://up.example/a", Capabilities: everything}},
		},
		{
			"override_path without a path", "server = \"https://up.example\"\noverride_path = true",
			[]brief{{URL: "https://up.example", Capabilities: everything}},
		},
		{
			"hosts in file order, server last",
			"server = \"https://up.example\"\n[host.\"https://z.example\"]\n[host.\"http://a.example:5000\"]\n capabilities = [\"pull\", \"Resolve\"]\n[host.\"m.example\"]\n",
			[]brief{
				{URL: "https://z.example/v2", Capabilities: everything},
				{URL: "http://a.example:5000/v2", Capabilities: hosts.Pull | hosts.Resolve},
				{URL: "https://m.example/v2", Capabilities: everything},
				server,
			},
		},
		{
			"hosts without a server", "[host.\"https://z.example\"]\n",
			[]brief{{URL: "https://z.example/v2", Capabilities: everything}, {Capabilities: everything}},
		},
		{
			"a header table before its host",
			"server = \"https://up.example\"\n[host.\"https://b.example\".header]\nx-a = \"1\"\n[host.\"https://a.example\"]\n[host.\"https://b.example\"]\n",
			[]brief{
				{URL: "https://b.example/v2", Capabilities: everything, Header: http.Header{"X-A": {"1"}}},
				{URL: "https://a.example/v2", Capabilities: everything},
				server,
			},
		},
		{
			"inline tables", `host = {"https://b.example" = {capabilities = ["pull"]}, "https://a.example" = {skip_verify = true}}`,
			[]brief{
				{URL: "https://b.example/v2", Capabilities: hosts.Pull},
				{URL: "https://a.example/v2", Capabilities: everything, SkipVerify: true},
				{Capabilities: everything},
			},
		},
		{
			"dotted keys", "host.\"https://b.example\".skip_verify = false\nhost.\"https://a.example\".dial_timeout = \"2s\"\n",
			[]brief{
				{URL: "https://b.example/v2", Capabilities: everything},
				{URL: "https://a.example/v2", Capabilities: everything, DialTimeout: 2 * time.Second},
				{Capabilities: everything},
			},
		},
		{"empty capabilities mean all", "server = \"up.example\"\ncapabilities = []", []brief{server}},
		{
			"ca of one file", "server = \"up.example\"\nca = \"ca.pem\"",
			[]brief{{URL: server.URL, Capabilities: everything, CA: []string{"/d/ca.pem"}}},
		},
		{
			"ca of several", "server = \"up.example\"\nca = [\"/etc/a.pem\", \"../b.pem\"]",
			[]brief{{URL: server.URL, Capabilities: everything, CA: []string{"/etc/a.pem", "/b.pem"}}},
		},
		{
			"client of one file", "server = \"up.example\"\nclient = \"c.pem\"",
			[]brief{{URL: server.URL, Capabilities: everything, Client: []hosts.KeyPair{{Cert: "/d/c.pem"}}}},
		},
		{
			"client of several files", "server = \"up.example\"\nclient = [\"a.pem\", \"/b.pem\"]",
			[]brief{{URL: server.URL, Capabilities: everything, Client: []hosts.KeyPair{{Cert: "/d/a.pem"}, {Cert: "/b.pem"}}}},
		},
		{
			"client of pairs", "server = \"up.example\"\nclient = [[\"a.pem\", \"a.key\"], [\"b.pem\", \"\"], \"c.pem\"]",
			[]brief{{URL: server.URL, Capabilities: everything, Client: []hosts.KeyPair{{Cert: "/d/a.pem", Key: "/d/a.key"}, {Cert: "/d/b.pem"}, {Cert: "/d/c.pem"}}}},
		},
		{
			"header", "server = \"up.example\"\n[header]\nx-one = \"1\"\nx-two = [\"2\", \"3\"]",
			[]brief{{URL: server.URL, Capabilities: everything, Header: http.Header{"X-One": {"1"}, "X-Two": {"2", "3"}}}},
		},
		{"IPv6", `server = "http://[::1]:5000"`, []brief{{URL: "http://[::1]:5000/v2", Capabilities: everything}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			list, err := hosts.Parse("/d/hosts.toml", []byte(tc.file))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, briefs(list), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("hosts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for _, tc := range []struct{ name, file, want string }{
		{"syntax", "server = \"a\"\nserver\n", "/d/hosts.toml:2: "},
		{"twice", "server = \"a\"\nserver = \"b\"\n", "/d/hosts.toml:2: "},
		{"unknown key", "server = \"a\"\n\nservre = \"b\"\n", `/d/hosts.toml:3: unknown key servre`},
		{"unknown key of a host", "[host.\"https://a.example\"]\ncapability = []\n", `/d/hosts.toml:2: unknown key host.https://a.example.capability`},
		{"a host in a host", "[host.\"https://a.example\"]\n[host.\"https://a.example\".host.\"b\"]\n", `/d/hosts.toml:2: unknown key host.https://a.example.host`},
		{"unknown capability", "[host.\"https://a.example\"]\n\ncapabilities = [\"pull\", \"psuh\"]\n", `/d/hosts.toml:3: unknown capability "psuh"; there are pull, resolve, push and referrers`},
		{"capabilities of a wrong type", "capabilities = \"pull\"\n", "/d/hosts.toml:1: "},
		{"ca of a wrong type", "server = \"a\"\nca = 3\n", "/d/hosts.toml:2: ca is neither a string nor a list of strings"},
		{"ca with a wrong item", "ca = [\"a\", 3]\n", "/d/hosts.toml:1: ca is neither a string nor a list of strings"},
		{"client of a wrong type", "client = true\n", "/d/hosts.toml:1: client is neither a file, a list of files, nor a list of pairs"},
		{"client with a triple", "client = [[\"a\", \"b\", \"c\"]]\n", "/d/hosts.toml:1: client is a list with an item of 3 files where a pair belongs"},
		{"header of a wrong type", "[header]\nx-a = \"1\"\nx-b = 2\n", "/d/hosts.toml:3: header x-b is neither a string nor a list of strings"},
		{"header in an inline table", "[host.\"https://a.example\"]\nskip_verify = true\nheader = {x-b = 2}\n", "/d/hosts.toml:3: header x-b is neither"},
		{"dial_timeout", "dial_timeout = \"5\"\n", `/d/hosts.toml:1: dial_timeout is "5", and not a duration like 5s`},
		{"dial_timeout below zero", "dial_timeout = \"-5s\"\n", `/d/hosts.toml:1: dial_timeout is "-5s"`},
		{"scheme", "[host.\"ftp://a.example\"]\n", `/d/hosts.toml:1: "ftp://a.example" is neither http nor https`},
		{"no host", "server = \"https://\"\n", `/d/hosts.toml:1: "https://" is not a URL`},
		{"empty host", "[host.\"\"]\n", `/d/hosts.toml:1: a host without a URL`},
		{"password in the URL", "server = \"https://me:secret@a.example\"\n", `/d/hosts.toml:1: the URL of a.example has more than scheme, host and path`},
		{"too long", strings.Repeat("#", 1<<20+1), "/d/hosts.toml: it has more than 1048576 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := hosts.Parse("/d/hosts.toml", []byte(tc.file))
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("error %q, want %q", err, tc.want)
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v is not an invalid argument", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("server = \"https://up.example\"\n[host.\"https://z.example\"]\ncapabilities = [\"pull\"]\nca = [\"a\"]\n"))
	f.Add([]byte("host.\"a\".client = [[\"a\", \"b\"], \"c\"]\nhost.b = {header = {x = [\"y\"]}, dial_timeout = \"1s\"}\n"))
	f.Add([]byte("[header]\nx-a = '''\n1'''\n[host]\n[host.\"é\\n\"]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 {
			return // longer inputs find nothing more
		}
		list, err := hosts.Parse("/d/hosts.toml", b)
		var bad *hosts.ParseError
		switch {
		case err != nil && !errors.As(err, &bad):
			t.Fatalf("error %T: %v", err, err)
		case err == nil && len(list) == 0:
			t.Fatal("no hosts and no error")
		}
		for _, h := range list[:max(len(list)-1, 0)] {
			if h.URL.Host == "" {
				t.Fatalf("a host without a URL before the last: %+v", h)
			}
		}
	})
}
