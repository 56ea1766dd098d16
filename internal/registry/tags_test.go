package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

// tags lists all tags of a target.
func tags(t *testing.T, g *target) (got []string, err error) {
	t.Helper()
	for tag, err := range dial(t, registry.Options{}).Tags(t.Context(), g.ref) {
		if err != nil {
			return got, err
		}
		got = append(got, tag)
	}
	return got, nil
}

// All tags are listed, however few of them come at once.
func TestTags(t *testing.T) {
	for name, run := range makes {
		t.Run(name, func(t *testing.T) {
			begin := run(t)
			count, asked, faults := 7, "GET GET GET", []rt.Fault{rt.On("GET", "/tags/", rt.SmallPages("3"))}
			switch name {
			case "debian": // it gives all at once, in no order
				asked = "GET"
			case "go-containerregistry": // it does not say that there is more
				count, faults = 2001, nil
			}
			g := begin(t, faults...)
			c := dial(t, registry.Options{})
			d := pushImage(t, g, c)
			body := make([]byte, d.Size)
			if _, err := g.get(repo + "/manifests/v1").Body.Read(body); err != nil {
				t.Fatal(err)
			}
			var want []string
			for n := range count {
				tag := fmt.Sprintf("t%04d", n)
				want = append(want, tag)
				if err := c.PushManifest(t.Context(), parse(t, g.host+"/"+repo+":"+tag), d, body); err != nil {
					t.Fatal(err)
				}
			}
			want = append(want, "v1")
			g.proxy.Forget()
			got, err := tags(t, g)
			if name == "debian" {
				slices.Sort(got)
			}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v; -want +got:\n%s", err, diff)
			}
			if got := g.methods(); got != asked {
				t.Errorf("requests: %s, want %s", got, asked)
			}
			g.proxy.Forget()
			for _, err := range c.Tags(t.Context(), g.ref) {
				if err != nil {
					t.Error(err)
				}
				break
			}
			if got := g.methods(); got != "GET" {
				t.Errorf("requests for a single tag: %s", got)
			}
		})
	}
}

// page is a page of tags, with a link to the next.
func page(link string, tags ...string) rt.Fault {
	h := http.Header{"Content-Type": {"application/json"}}
	if link != "" {
		h.Set("Link", link)
	}
	list := ""
	if len(tags) > 0 {
		list = `"` + strings.Join(tags, `","`) + `"`
	}
	return rt.Answer(http.StatusOK, h, `{"name":"x","tags":[`+list+`]}`)
}

func TestTagsAnswers(t *testing.T) {
	thousand := make([]string, 1000)
	for i := range thousand {
		thousand[i] = fmt.Sprint("t", i)
	}
	for _, tc := range []struct {
		name  string
		fault rt.Fault
		want  int // tags
		kind  error
		asked string // queries
	}{
		{name: "one page", fault: page("", "a", "b"), want: 2, asked: "n=1000"},
		{name: "none", fault: page(""), asked: "n=1000"},
		{name: "null", fault: rt.Answer(http.StatusOK, nil, `{"tags":null}`), asked: "n=1000"},
		{name: "a link without a place", fault: rt.First(page(`<?last=a&n=1>; title="x, y"; REL="prev next"`, "a"), page("", "b")), want: 2, asked: "n=1000 last=a&n=1"},
		{name: "another link", fault: page(`</first>; rel="first"`, "a"), want: 1, asked: "n=1000"},
		{name: "a page that comes late", fault: rt.First(page(`<?p=2>; rel=next`, "a"), rt.First(rt.Status(http.StatusServiceUnavailable), page("", "b"))), want: 2, asked: "n=1000 p=2 p=2"},
		{name: "tags twice", fault: rt.First(page(`<?p=2>; rel=next`, "a", "b"), page("", "b", "c")), want: 3, asked: "n=1000 p=2"},
		{name: "neither n nor last is known", fault: page("", append(thousand, "more")...), want: 1001, asked: "n=1000 last=more&n=1000"},
		{name: "n is too much", fault: rt.First(rt.Status(http.StatusBadRequest), page("", "a")), want: 1, asked: "n=1000 "},
		{name: "a circle", fault: page(`<?p=2>; rel=next`, "a"), want: 1, kind: errdefs.ErrInvalidArgument, asked: "n=1000 p=2"},
		{name: "another host", fault: page(`<http://127.0.0.2:1/v2/x>; rel=next`, "a"), kind: errdefs.ErrFailedPrecondition, asked: "n=1000"},
		{name: "no URL", fault: page(`<http://%zz>; rel=next`, "a"), kind: errdefs.ErrInvalidArgument, asked: "n=1000"},
		{name: "not there", fault: rt.Status(http.StatusNotFound), kind: errdefs.ErrNotFound, asked: "n=1000"},
		{name: "a web page", fault: rt.WebPage(), kind: errdefs.ErrUnavailable},
		{name: "not JSON", fault: rt.Answer(http.StatusOK, nil, "{"), kind: errdefs.ErrInvalidArgument},
		{name: "not a tag", fault: page("", "a", `\u001b[2J`), want: 1, kind: errdefs.ErrInvalidArgument},
		{name: "too much", fault: rt.Huge("application/json", 5<<20, true), kind: errdefs.ErrInvalidArgument},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := distribution(t, rt.On("GET", "/tags/", tc.fault))
			got, err := tags(t, g)
			if len(got) != tc.want || !errors.Is(err, tc.kind) {
				t.Errorf("got %d, %v; want %d, %v", len(got), err, tc.want, tc.kind)
			}
			var asked []string
			for _, r := range g.proxy.Requests() {
				asked = append(asked, r.Query)
			}
			if got := strings.Join(asked, " "); tc.asked != "" && got != tc.asked {
				t.Errorf("requests: %q, want %q", got, tc.asked)
			}
		})
	}
}

// A mirror is told whose tags are meant on every page, and the list is all of one host.
func TestTagsMirror(t *testing.T) {
	mirror := distribution(t, rt.On("GET", "/tags/", rt.First(page(`<?p=2>; rel=next`, "a"), page("", "b"))))
	upstream := distribution(t)
	toml := `server = "http://` + upstream.host + `"
[host."http://` + mirror.host + `"]
capabilities = ["pull", "resolve"]
`
	c := dial(t, registry.Options{HostsDirs: []string{hostsDir(t, upstream.host, toml)}})
	var got []string
	for tag, err := range c.Tags(t.Context(), upstream.ref) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, tag)
	}
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, r := range mirror.proxy.Requests() {
		if !strings.Contains(r.Query, "ns="+url.QueryEscape(upstream.host)) {
			t.Errorf("asked for %s?%s", r.Path, r.Query)
		}
	}
	if got := upstream.methods(); got != "" {
		t.Errorf("requests to the registry: %s", got)
	}
}
