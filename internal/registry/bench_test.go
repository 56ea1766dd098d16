package registry_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/registry"
)

// BenchmarkBlob reads 64 MiB over loopback, as a pull does: 256 KiB at a time.
func BenchmarkBlob(b *testing.B) {
	data := make([]byte, 64<<20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	defer server.Close()
	r := parse(b, server.Listener.Addr().String()+"/"+repo+":v1")
	d := image.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	c := registry.New(registry.Options{})
	defer c.Close()
	buf := make([]byte, 256<<10)
	b.SetBytes(d.Size)
	b.ReportAllocs()
	for b.Loop() {
		body, err := c.Blob(b.Context(), r, d, 0, nil)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = body.Read(buf)
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		if err := body.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
