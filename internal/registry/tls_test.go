package registry_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/registry"
	rt "github.com/stowage/stowage/internal/registry/registrytest"
)

// secure runs a registry behind TLS and returns its host, and its certificate and key in a PEM file.
func secure(t *testing.T, h http.Handler, config *tls.Config) (host, ca string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = config
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	s.StartTLS()
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	blocks := append(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(ca, blocks, 0o600); err != nil {
		t.Fatal(err)
	}
	return s.Listener.Addr().String(), ca
}

func TestTLS(t *testing.T) {
	f := serve(t)
	host, ca := secure(t, f.registry, nil)
	inner := strings.TrimPrefix(host, "127.0.0.1")
	// With TLS 1.3 a client hears too late that it was refused to always hear why.
	asClient, _ := secure(t, f.registry, &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12})
	for _, tc := range []struct {
		name, ref, toml string
		want            string // in the error; empty: it works
		kind            error  // nil: any
	}{
		{name: "loopback is not verified", ref: host},
		{name: "a trusted authority", ref: "r.example", toml: "server = \"https://" + host + "\"\nca = \"" + ca + "\"\n"},
		{name: "no verification", ref: "r.example", toml: "server = \"https://" + host + "\"\nskip_verify = true\n"},
		{name: "http and TLS settings, and the server speaks TLS", ref: "r.example", toml: "server = \"http://" + host + "\"\nskip_verify = true\n"},
		{name: "http and TLS settings, and it speaks HTTP", ref: "r.example", toml: "server = \"http://" + f.host + "\"\nskip_verify = true\n"},
		{name: "an unknown authority", ref: "r.example", toml: "server = \"https://" + host + "\"\n", want: "signed by an authority that is not trusted here"},
		{name: "another name", ref: "r.example", toml: "server = \"https://localhost" + inner + "\"\nca = \"" + ca + "\"\n", want: "its certificate is for another name"},
		{name: "no TLS where it is expected", ref: "r.example", toml: "server = \"https://" + f.host + "\"\n", want: "it speaks plain HTTP where HTTPS was expected"},
		{name: "TLS where it is not expected", ref: "r.example", toml: "server = \"http://" + host + "\"\n", want: "400 Bad Request"},
		{name: "a client certificate", ref: "r.example", toml: "server = \"https://" + asClient + "\"\nskip_verify = true\nclient = \"" + ca + "\"\n"},
		{name: "a client certificate in two files", ref: "r.example", toml: "server = \"https://" + asClient + "\"\nskip_verify = true\nclient = [[\"" + ca + "\", \"" + ca + "\"]]\n"},
		{name: "no client certificate", ref: "r.example", toml: "server = \"https://" + asClient + "\"\nskip_verify = true\n", want: "it refused the TLS connection"},
		{name: "no such authority file", ref: "r.example", toml: "server = \"https://" + host + "\"\nca = \"absent.pem\"\n", want: "absent.pem: no such file", kind: errdefs.ErrInvalidArgument},
		{name: "no certificate in it", ref: "r.example", toml: "server = \"https://" + host + "\"\nca = \"hosts.toml\"\n", want: "holds no certificate", kind: errdefs.ErrInvalidArgument},
		{name: "no such client certificate", ref: "r.example", toml: "server = \"https://" + host + "\"\nclient = \"absent.pem\"\n", want: "absent.pem", kind: errdefs.ErrInvalidArgument},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := registry.Options{}
			if tc.toml != "" {
				o.HostsDirs = []string{hostsDir(t, tc.ref, tc.toml)}
			}
			f.proxy.Forget()
			found, err := dial(t, o).Resolve(t.Context(), parse(t, tc.ref+"/"+repo+":v1"))
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("got %v, want %q", err, tc.want)
				}
				if tc.kind != nil && !errors.Is(err, tc.kind) {
					t.Errorf("got %v, want %v", err, tc.kind)
				}
				if len(f.proxy.Requests()) > 0 {
					t.Error("it was asked all the same")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if found.Digest != f.root.Digest {
				t.Errorf("got %s, want %s", found.Digest, f.root.Digest)
			}
		})
	}
}

// A loopback registry is asked over plain HTTP, and with one request.
func TestLoopbackIsPlain(t *testing.T) {
	f := serve(t)
	c := dial(t, registry.Options{})
	for range 2 {
		if _, err := c.Resolve(t.Context(), f.tag); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(f.proxy.Requests()); got != 2 {
		t.Errorf("got %d requests for two references, want 2", got)
	}
}

func TestRedirectToPlainHTTP(t *testing.T) {
	f := serve(t)
	host, ca := secure(t, rt.Wrap(f.registry, rt.Redirect("http://"+f.host+"{path}")), nil)
	dir := hostsDir(t, "r.example", "server = \"https://"+host+"\"\nca = \""+ca+"\"\n")
	_, err := dial(t, registry.Options{HostsDirs: []string{dir}}).Resolve(t.Context(), parse(t, "r.example/"+repo+":v1"))
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "redirects from https to http, at "+f.host) {
		t.Errorf("got %v, want a refused redirect", err)
	}
	if got := len(f.proxy.Requests()); got != 0 {
		t.Errorf("the redirect was followed: %d requests", got)
	}
}
