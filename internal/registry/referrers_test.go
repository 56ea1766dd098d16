package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

// signature makes the manifest of an artifact, number n, that refers to subject.
func signature(t *testing.T, subject image.Descriptor, n int) ([]byte, image.Descriptor) {
	t.Helper()
	empty := image.Describe("application/vnd.oci.empty.v1+json", []byte("{}"))
	body, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": image.OCIManifest, "artifactType": "application/vnd.example.signature",
		"config": empty, "layers": []image.Descriptor{empty}, "subject": subject,
		"annotations": map[string]string{"number": fmt.Sprint(n)},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := image.Describe(image.OCIManifest, body)
	return body, d
}

// entry is how a list of referrers names a signature.
func entry(d image.Descriptor, n int) image.Descriptor {
	d.ArtifactType = "application/vnd.example.signature"
	d.Annotations = map[string]string{"number": fmt.Sprint(n)}
	return d
}

// pushImage pushes an image, so that something can refer to it.
func pushImage(t *testing.T, g *target, c *registry.Client) image.Descriptor {
	t.Helper()
	config := []byte("{}")
	if _, err := c.PushBlob(t.Context(), g.ref, describe(config), bytesOf(config), nil); err != nil {
		t.Fatal(err)
	}
	body, d, err := image.BuildManifest(image.Describe(image.OCIConfig, config), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PushManifest(t.Context(), g.ref, d, body); err != nil {
		t.Fatal(err)
	}
	return d
}

func tagOf(d image.Descriptor) string { return strings.Replace(d.Digest.String(), ":", "-", 1) }

// byDigest does away with order.
var byDigest = cmpopts.SortSlices(func(a, b image.Descriptor) bool { return a.Digest < b.Digest })

// Referrers that were pushed at the same time are all listed, by each make of registry, whether it
// has the API or not.
func TestReferrers(t *testing.T) {
	for name, run := range makes {
		t.Run(name, func(t *testing.T) {
			g := run(t)(t)
			c := dial(t, registry.Options{})
			subject := pushImage(t, g, c)
			if got, err := c.Referrers(t.Context(), g.ref, subject.Digest); err != nil || len(got) > 0 {
				t.Errorf("before any: %v, %v", got, err)
			}
			var want []image.Descriptor
			var pushes sync.WaitGroup
			for n := range 4 {
				body, d := signature(t, subject, n)
				want = append(want, entry(d, n))
				pushes.Go(func() {
					at := parse(t, g.host+"/"+repo+"@"+d.Digest.String())
					if err := c.PushManifest(t.Context(), at, d, body); err != nil {
						t.Error(err)
					}
				})
			}
			pushes.Wait()
			g.proxy.Forget()
			got, err := c.Referrers(t.Context(), g.ref, subject.Digest)
			if err != nil {
				t.Fatal(err)
			}
			asked := "GET GET"
			if name == "go-containerregistry" {
				asked = "GET"
				for i := range want {
					want[i].ArtifactType = "application/vnd.oci.empty.v1+json" // it takes the config's type
				}
			}
			if diff := cmp.Diff(want, got, byDigest); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got := g.methods(); got != asked {
				t.Errorf("requests: %s, want %s", got, asked)
			}
		})
	}
}

// What is listed already is not listed again, and what else stands in the list stays.
func TestReferrersTag(t *testing.T) {
	g := distribution(t)
	c := dial(t, registry.Options{})
	subject := pushImage(t, g, c)
	other, otherD := signature(t, subject, 1)
	list := []byte(`{"schemaVersion":2,"mediaType":"` + image.OCIIndex + `","manifests":[{"mediaType":"` + image.OCIManifest +
		`","digest":"` + otherD.Digest.String() + fmt.Sprintf(`","size":%d,"x-theirs":[1]}],"annotations":{"by":"them"}}`, len(other)))
	if err := c.PushManifest(t.Context(), parse(t, g.host+"/"+repo+":"+tagOf(subject)), image.Describe(image.OCIIndex, list), list); err != nil {
		t.Fatal(err)
	}
	body, d := signature(t, subject, 2)
	for range 2 {
		if err := c.PushManifest(t.Context(), parse(t, g.host+"/"+repo+"@"+d.Digest.String()), d, body); err != nil {
			t.Fatal(err)
		}
	}
	var got struct {
		Manifests   []map[string]any
		Annotations map[string]string
	}
	if err := json.NewDecoder(g.get(repo + "/manifests/" + tagOf(subject)).Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if len(got.Manifests) != 2 || got.Manifests[0]["x-theirs"] == nil || got.Annotations["by"] != "them" ||
		got.Manifests[1]["digest"] != d.Digest.String() || got.Manifests[1]["artifactType"] != "application/vnd.example.signature" {
		t.Errorf("got %v", got)
	}
}

// A registry that takes note of the subject itself needs no tag.
func TestReferrersSubject(t *testing.T) {
	g := distribution(t, rt.On("PUT", "/manifests/", rt.SetHeader("OCI-Subject", "sha256:x")))
	c := dial(t, registry.Options{})
	subject := pushImage(t, g, c)
	g.proxy.Forget()
	body, d := signature(t, subject, 1)
	if err := c.PushManifest(t.Context(), g.ref, d, body); err != nil {
		t.Fatal(err)
	}
	if got := g.methods(); got != "PUT" {
		t.Errorf("requests: %s", got)
	}
}

// A list that another client overwrites is written again; if that never ends, there is an error.
func TestReferrersRace(t *testing.T) {
	for _, tc := range []struct {
		times int
		want  error
	}{{2, nil}, {100, errdefs.ErrUnavailable}} {
		// The other client wins: our list is lost.
		var g *target
		var put string
		lose := rt.Times(tc.times, rt.Answer(http.StatusCreated, nil, ""))
		g = distribution(t, func(next http.Handler) http.Handler {
			lost := lose(next)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, put) {
					lost.ServeHTTP(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		put = "never"
		c := dial(t, registry.Options{})
		subject := pushImage(t, g, c)
		put = tagOf(subject)
		body, d := signature(t, subject, 1)
		if err := c.PushManifest(t.Context(), parse(t, g.host+"/"+repo+"@"+d.Digest.String()), d, body); !errors.Is(err, tc.want) {
			t.Errorf("overwritten %d times: %v, want %v", tc.times, err, tc.want)
		}
		if tc.want == nil {
			got, err := c.Referrers(t.Context(), g.ref, subject.Digest)
			if diff := cmp.Diff([]image.Descriptor{entry(d, 1)}, got); diff != "" || err != nil {
				t.Errorf("%v; -want +got:\n%s", err, diff)
			}
		}
	}
}

// The referrers API is read page by page; what is wrong with it is an error or leads to the tag.
func TestReferrersAnswers(t *testing.T) {
	index := func(link string, entries ...string) rt.Fault {
		h := http.Header{"Content-Type": {image.OCIIndex}}
		if link != "" {
			h.Set("Link", link)
		}
		return rt.Answer(http.StatusOK, h, `{"schemaVersion":2,"manifests":[`+strings.Join(entries, ",")+`]}`)
	}
	one := func(hex string) string {
		return `{"mediaType":"` + image.OCIManifest + `","digest":"sha256:` + strings.Repeat(hex, 64) + `","size":1}`
	}
	many := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf(`{"mediaType":"x/y","digest":"sha256:%064x","size":1}`, i))
		}
		return list
	}
	for _, tc := range []struct {
		name  string
		fault rt.Fault
		want  int // referrers
		kind  error
		asked string
	}{
		{name: "pages", fault: rt.First(index(`</v2/`+repo+`/referrers/x?page=2>; rel="next"`, one("a"), one("b")), index("", one("c"))), want: 3, asked: "GET GET"},
		{name: "a circle", fault: index(`<?page=2>; rel=next`, one("a")), kind: errdefs.ErrInvalidArgument, asked: "GET GET"},
		{name: "one on two pages", fault: rt.First(index(`<?page=2>; rel="next"`, one("a"), one("b")), index("", one("b"), one("c"))), want: 3, asked: "GET GET"},
		{name: "too many", fault: index("", many(10_001)...), kind: errdefs.ErrInvalidArgument, asked: "GET"},
		{name: "as many as there may be", fault: index("", many(10_000)...), want: 10_000, asked: "GET"},
		{name: "an empty circle", fault: index(`<?page=2>; rel=next`), kind: errdefs.ErrInvalidArgument, asked: "GET"},
		{name: "another host", fault: index(`<http://127.0.0.2:1/v2/>; rel=next`, one("a")), kind: errdefs.ErrFailedPrecondition, asked: "GET"},
		{name: "null", fault: rt.Answer(http.StatusOK, http.Header{"Content-Type": {image.OCIIndex}}, `{"manifests":null}`), asked: "GET"},
		{name: "not an index", fault: rt.Answer(http.StatusOK, http.Header{"Content-Type": {"application/json"}}, `{}`), asked: "GET GET"},
		{name: "a web page", fault: rt.WebPage(), asked: "GET GET"},
		{name: "not supported", fault: rt.Status(http.StatusMethodNotAllowed), asked: "GET GET"},
		{name: "not JSON", fault: rt.Answer(http.StatusOK, http.Header{"Content-Type": {image.OCIIndex}}, `<`), kind: errdefs.ErrInvalidArgument, asked: "GET"},
		{name: "a bad digest", fault: index("", `{"digest":"sha256:../x","size":1}`), kind: errdefs.ErrInvalidArgument, asked: "GET"},
		{name: "forbidden", fault: rt.Status(http.StatusForbidden), kind: errdefs.ErrPermissionDenied, asked: "GET"},
		{name: "too large", fault: rt.Huge(image.OCIIndex, image.MaxDocument+1, false), kind: errdefs.ErrInvalidArgument, asked: "GET"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := distribution(t, rt.On("GET", "/referrers/", tc.fault))
			got, err := dial(t, registry.Options{}).Referrers(t.Context(), g.ref, wrongDigest)
			if len(got) != tc.want || !errors.Is(err, tc.kind) {
				t.Errorf("got %d, %v; want %d, %v", len(got), err, tc.want, tc.kind)
			}
			if asked := g.methods(); tc.asked != "" && asked != tc.asked {
				t.Errorf("requests: %s, want %s", asked, tc.asked)
			}
		})
	}
}

// What stands under the tag and is no list is left alone.
func TestReferrersNoIndex(t *testing.T) {
	g := distribution(t)
	c := dial(t, registry.Options{})
	subject := pushImage(t, g, c)
	config := []byte("{}")
	body, d, err := image.BuildManifest(image.Describe(image.OCIConfig, config), []image.Descriptor{describe(config)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PushManifest(t.Context(), parse(t, g.host+"/"+repo+":"+tagOf(subject)), d, body); err != nil {
		t.Fatal(err)
	}
	sig, sigD := signature(t, subject, 1)
	err = c.PushManifest(t.Context(), parse(t, g.host+"/"+repo+"@"+sigD.Digest.String()), sigD, sig)
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "it is not an index") {
		t.Errorf("pushed: %v", err)
	}
	if _, err := c.Referrers(t.Context(), g.ref, subject.Digest); !errdefs.IsInvalidArgument(err) {
		t.Errorf("listed: %v", err)
	}
	g.has(t, repo+"/manifests/"+tagOf(subject), body)
}

// What mirrors do not know, the registry may; only it says for good that there is nothing.
func TestReferrersMirror(t *testing.T) {
	mirror, upstream := distribution(t), distribution(t)
	plain := dial(t, registry.Options{})
	subject := pushImage(t, upstream, plain)
	sig, d := signature(t, subject, 1)
	if err := plain.PushManifest(t.Context(), parse(t, upstream.host+"/"+repo+"@"+d.Digest.String()), d, sig); err != nil {
		t.Fatal(err)
	}
	toml := `server = "http://` + upstream.host + `"
[host."http://` + mirror.host + `"]
capabilities = ["pull", "resolve", "referrers"]
`
	c := dial(t, registry.Options{HostsDirs: []string{hostsDir(t, upstream.host, toml)}})
	got, err := c.Referrers(t.Context(), upstream.ref, subject.Digest)
	if diff := cmp.Diff([]image.Descriptor{entry(d, 1)}, got); diff != "" || err != nil {
		t.Errorf("%v; -want +got:\n%s", err, diff)
	}
	if got := mirror.methods(); got != "GET GET" {
		t.Errorf("requests to the mirror: %s", got)
	}
}

func TestPushManifestErrors(t *testing.T) {
	body, d, err := image.BuildManifest(image.Describe(image.OCIConfig, []byte("{}")), nil)
	if err != nil {
		t.Fatal(err)
	}
	put := func(f rt.Fault) rt.Fault { return rt.On("PUT", "/manifests/", f) }
	for _, tc := range []struct {
		name  string
		fault rt.Fault
		body  []byte // nil: the right one
		kind  error
		want  string
		asked string
	}{
		{name: "forbidden", fault: put(rt.Status(http.StatusForbidden)), kind: errdefs.ErrPermissionDenied, want: "403 Forbidden for manifest v1 of " + repo, asked: "PUT"},
		{name: "unavailable", fault: put(rt.Times(2, rt.Status(http.StatusBadGateway))), asked: "PUT PUT PUT"},
		{name: "a lie", fault: put(rt.SetHeader("Docker-Content-Digest", wrongDigest)), kind: errdefs.ErrDataLoss, want: "stored something else", asked: "PUT"},
		{name: "no digest", fault: put(rt.SetHeader("Docker-Content-Digest", "")), asked: "PUT"},
		{name: "not a digest", fault: put(rt.SetHeader("Docker-Content-Digest", "x")), kind: errdefs.ErrDataLoss, asked: "PUT"},
		{name: "another status", fault: put(rt.Status(http.StatusOK)), kind: errdefs.ErrUnknown, want: "200 OK", asked: "PUT"},
		{name: "other bytes", fault: put(rt.Status(http.StatusTeapot)), body: []byte("{}"), kind: errdefs.ErrDataLoss},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := distribution(t, tc.fault)
			c := dial(t, registry.Options{})
			config := []byte("{}")
			if _, err := c.PushBlob(t.Context(), g.ref, describe(config), bytesOf(config), nil); err != nil {
				t.Fatal(err)
			}
			g.proxy.Forget()
			if tc.body == nil {
				tc.body = body
			}
			err := c.PushManifest(t.Context(), g.ref, d, tc.body)
			if !errors.Is(err, tc.kind) || !strings.Contains(fmt.Sprint(err), tc.want) {
				t.Errorf("got %v, want %v, with %q", err, tc.kind, tc.want)
			}
			if asked := g.methods(); asked != tc.asked {
				t.Errorf("requests: %s, want %s", asked, tc.asked)
			}
		})
	}
}
