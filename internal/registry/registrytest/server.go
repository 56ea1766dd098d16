// Package registrytest runs real registries on loopback, for tests, the demo and the benchmark.
//
// [New] runs the distribution project's registry inside this process; [StartDebian] runs Debian's
// docker-registry as a process of its own. Both are filled over HTTP, as a client would.
package registrytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // driver by name
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"   // driver by name
	"github.com/sirupsen/logrus"
)

// Options tunes a [Server]. The zero value keeps everything in memory.
type Options struct {
	Dir  string // where blobs are kept; empty: in memory
	Link Link   // the way to it
	// Wrap, if set, stands between the network and the registry: to count requests, or to
	// answer some of them wrongly.
	Wrap func(http.Handler) http.Handler
}

// A Server is a registry inside this process. It asks for no credentials, checks that what a
// manifest names is there, but takes indexes that name absent manifests.
type Server struct {
	Registry

	// Handler is the registry itself, without Options.Wrap.
	Handler http.Handler

	app    *handlers.App
	server *http.Server
	done   chan error // what Serve returned
}

// New runs a registry on a free port of 127.0.0.1 until Close.
func New(opts Options) (*Server, error) {
	// The registry logs through the standard logrus logger, and takes no other.
	logrus.SetOutput(io.Discard)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	app := handlers.NewApp(context.Background(), configure(opts.Dir))
	handler := http.Handler(app)
	if opts.Wrap != nil {
		handler = opts.Wrap(handler)
	}
	s := &Server{
		Registry: Registry{Host: listener.Addr().String()},
		Handler:  app,
		app:      app,
		server:   &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second},
		done:     make(chan error, 1),
	}
	if opts.Link != (Link{}) {
		listener = opts.Link.Listen(listener)
	}
	go func() { s.done <- s.server.Serve(listener) }()
	return s, nil
}

// Close drops all connections and waits for the server to end. What it kept in a directory stays.
func (s *Server) Close() error {
	err := s.server.Close()
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, s.app.Shutdown())
}

func configure(dir string) *configuration.Configuration {
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"delete": {"enabled": true},
			// The purger is a goroutine without an end.
			"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
		},
		// Validation refuses indexes with gaps and layers with foreign URLs; both exist.
		Validation: configuration.Validation{Disabled: true},
	}
	if dir == "" {
		config.Storage["inmemory"] = nil
	} else {
		config.Storage["filesystem"] = configuration.Parameters{"rootdirectory": dir}
	}
	config.Log.AccessLog.Disabled = true
	config.HTTP.Secret = "loopback" // signs upload URLs; nothing to protect here
	config.Catalog.MaxEntries = 1000
	config.Tags.MaxTags = 1000
	return config
}
