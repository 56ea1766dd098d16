package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// pullAgain pulls an image that is there and unchanged, through a proxy that counts requests.
func pullAgain(ctx context.Context, b *bench) ([]result, error) {
	if _, err := b.image(ctx, sixLayers); err != nil {
		return nil, err
	}
	var c counter
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: b.host})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.add(r.Method)
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	reference := strings.TrimPrefix(server.URL, "http://") + "/bench/" + sixLayers + ":1"
	store, err := b.filled(ctx, reference)
	if err != nil {
		return nil, err
	}
	c.take()
	again := result{name: "pull six again", limit: 30 * time.Millisecond}
	requests := result{name: "requests of pull six again", asked: "one HEAD", met: true}
	for range b.runs {
		one, err := b.measure(ctx, b.folder, step{command: func(string) []string {
			return b.stowage(store, "pull", packedOnly, reference)
		}})
		if err != nil {
			return nil, err
		}
		again.ours = append(again.ours, one)
		asked := c.take()
		requests.peerName = fmt.Sprint(asked)
		requests.met = requests.met && slices.Equal(asked, []string{http.MethodHead})
	}
	requests.ours = again.ours
	return []result{again, requests}, nil
}

// A counter keeps the methods of requests.
type counter struct {
	mu      sync.Mutex
	methods []string
}

func (c *counter) add(method string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.methods = append(c.methods, method)
}

// take returns the methods since the last take.
func (c *counter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	methods := c.methods
	c.methods = nil
	return methods
}
