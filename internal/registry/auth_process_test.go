package registry_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

// process runs Debian's registry behind TLS, filled with one blob and one manifest under repo:v1 and
// public/fixture:v1, and returns a folder with its certificate as docker lays it out.
func process(t *testing.T, o rt.ProcessOptions) (host, certs string, layer image.Descriptor) {
	t.Helper()
	dir := t.TempDir()
	open, err := rt.StartDebian(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(strings.Repeat("a layer", 1000))
	layer = image.Describe(image.OCILayer, body)
	for _, name := range []string{repo, "public/fixture"} {
		config := []byte("{}")
		_, layerErr := open.PushBlob(t.Context(), name, body)
		_, configErr := open.PushBlob(t.Context(), name, config)
		manifest, d, err := image.BuildManifest(image.Describe(image.OCIConfig, config), []image.Descriptor{layer})
		for _, err := range []error{layerErr, configErr, err, open.PushManifest(t.Context(), name, "v1", d.MediaType, manifest)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := open.Stop(); err != nil {
		t.Fatal(err)
	}
	p, err := rt.StartDebianWith(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	certs = t.TempDir()
	if err := os.Mkdir(filepath.Join(certs, p.Host), 0o755); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(o.Certificate.CA)
	if err != nil {
		t.Fatal(err)
	}
	// With a hosts.toml nothing is guessed of what is on loopback: the certificate is verified.
	toml := fmt.Sprintf("server = \"https://%s\"\nca = \"ca.crt\"\n", p.Host)
	for name, text := range map[string][]byte{"ca.crt": pem, "hosts.toml": []byte(toml)} {
		if err := os.WriteFile(filepath.Join(certs, p.Host, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p.Host, certs, layer
}

// Logging in, pulling and logging out with a real registry behind TLS that asks for a password, and
// with one whose token server does.
func TestRealRegistries(t *testing.T) {
	for _, tc := range []struct {
		name   string
		tokens *rt.TokenOptions
		asked  []string // of the token server: by login, and then by pulling
	}{
		{name: "htpasswd"},
		{name: "tokens", tokens: &rt.TokenOptions{}, asked: []string{"GET basic", "GET basic repository:library/fixture:pull"}},
		{name: "tokens by POST", tokens: &rt.TokenOptions{PostOnly: true, ExpiresIn: 300}, asked: []string{"POST password", "POST password repository:library/fixture:pull"}},
		{
			// Each request has its own token, and none is refused for having an old one.
			name: "tokens that run out at once", tokens: &rt.TokenOptions{ExpiresIn: 1e-9},
			asked: append([]string{"GET basic"}, slices.Repeat([]string{"GET basic repository:library/fixture:pull"}, 3)...),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cert, err := rt.NewCertificate(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			o := rt.ProcessOptions{Certificate: cert, Htpasswd: tc.tokens == nil}
			if tc.tokens != nil {
				tc.tokens.Certificate = cert
				if o.Tokens, err = rt.NewTokenServer(*tc.tokens); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := o.Tokens.Close(); err != nil {
						t.Error(err)
					}
				}()
			}
			host, certs, layer := process(t, o)
			log, lines := logged()
			file := filepath.Join(t.TempDir(), "docker", "config.json")
			options := registry.Options{HostsDirs: []string{certs}, AuthFiles: []string{file}, Log: log}
			tag := parse(t, host+"/"+repo+":v1")

			if _, err := dial(t, options).Login(t.Context(), host, rt.User, "wrong"); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "it refuses the user name or the password") {
				t.Errorf("wrong password: %v", err)
			}
			if _, err := os.Stat(file); !os.IsNotExist(err) {
				t.Errorf("a wrong password was kept: %v", err)
			}
			if _, err := dial(t, options).Resolve(t.Context(), tag); !errdefs.IsUnauthorized(err) {
				t.Errorf("without a login: %v", err)
			}
			before := 0
			if o.Tokens != nil {
				before = len(o.Tokens.Asked())
			}

			stored, err := dial(t, options).Login(t.Context(), host, rt.User, rt.Password)
			if err != nil || stored.File != file || stored.Helper != "" {
				t.Fatalf("log in: %+v, %v", stored, err)
			}
			c := dial(t, options)
			found, err := c.Resolve(t.Context(), tag)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Manifest(t.Context(), tag, found.Descriptor); err != nil {
				t.Error(err)
			}
			body, err := c.Blob(t.Context(), tag, layer, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, body); err != nil || n != layer.Size {
				t.Errorf("got %d bytes, %v", n, err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
			if o.Tokens != nil {
				if diff := cmp.Diff(tc.asked, o.Tokens.Asked()[before:]); diff != "" {
					t.Errorf("tokens asked for (-want +got):\n%s", diff)
				}
				// Strangers get what is for them.
				o := options
				o.AuthFiles = nil
				if _, err := dial(t, o).Resolve(t.Context(), parse(t, host+"/public/fixture:v1")); tc.tokens.PostOnly == (err == nil) {
					t.Errorf("as a stranger: %v", err)
				}
			}

			if from, err := dial(t, options).Logout(t.Context(), host); err != nil || !slices.Equal(from, []registry.Stored{{File: file}}) {
				t.Errorf("log out: %v, %v", from, err)
			}
			if _, err := dial(t, options).Resolve(t.Context(), tag); !errdefs.IsUnauthorized(err) {
				t.Errorf("after logging out: %v", err)
			}
			if from, err := dial(t, options).Logout(t.Context(), host); err != nil || len(from) != 0 {
				t.Errorf("log out again: %v, %v", from, err)
			}
			if s := lines.String(); strings.Contains(s, rt.Password) || strings.Contains(s, basic(rt.User, rt.Password)) {
				t.Errorf("the log tells the secret:\n%s", s)
			}
		})
	}
}

// An identity token, as docker keeps it, is exchanged by POST.
func TestRealIdentityToken(t *testing.T) {
	cert, err := rt.NewCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := rt.NewTokenServer(rt.TokenOptions{Certificate: cert})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tokens.Close(); err != nil {
			t.Error(err)
		}
	}()
	host, certs, _ := process(t, rt.ProcessOptions{Certificate: cert, Tokens: tokens})
	file := authFile(t, fmt.Sprintf(`{"auths":{"%s":{"identitytoken":"%s"}}}`, host, tokens.Refresh))
	c := dial(t, registry.Options{HostsDirs: []string{certs}, AuthFiles: []string{file}})
	if _, err := c.Resolve(t.Context(), parse(t, host+"/"+repo+":v1")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"POST refresh_token repository:" + repo + ":pull"}, tokens.Asked()); diff != "" {
		t.Errorf("tokens asked for (-want +got):\n%s", diff)
	}
}
