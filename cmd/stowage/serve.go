package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/stowage/stowage/internal/server"
	"github.com/stowage/stowage/internal/server/cri"
	"github.com/stowage/stowage/internal/server/metrics"
)

func serveCommand(a *app) *cobra.Command {
	var address, plugin, metricsAddress string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Be a daemon: offer the store on a socket, in containerd's API",
		Long: `Offers the store on a unix socket in containerd's API, so that ctr, nerdctl, BuildKit and
programs with containerd's client library use it unchanged. Every namespace is offered. On
the same socket is the image service of Kubernetes, for kubelet and crictl.

SIGTERM and SIGINT end it: it takes no more requests, lets those under way end within the
grace time, and cancels what is left, which goes on from there when it is asked for again.
Other stowage commands may work on the same root meanwhile.

--metrics answers /metrics in Prometheus' format over HTTP, on HOST:PORT or on a socket, as
unix:NAME; on a socket /debug/pprof/ is answered as well.`,
		Example: "  stowage serve\n  stowage serve --root /srv/images --address /run/images.sock",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&address, "address", "", "socket to listen on (STOWAGE_ADDRESS; default /run/stowage/stowage.sock)")
	cmd.Flags().StringVar(&plugin, "plugin", "", "another socket, for a containerd that has the store as its plugin")
	cmd.Flags().StringVar(&metricsAddress, "metrics", "", "HOST:PORT, or unix: and a socket, to answer metrics on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if os.Getenv("GOGC") == "" {
			// Most of what there is is what requests leave behind: with Go's 100, lists of images take a
			// fifth longer for a tenth less memory.
			debug.SetGCPercent(200)
		}
		ctx, conf := cmd.Context(), &a.conf.Server
		a.conf.Address = "" // the variables of commands that use a daemon
		a.set("server.address", &conf.Address, "address", address)
		a.set("server.plugin", &conf.Plugin, "plugin", plugin)
		a.set("server.metrics", &conf.Metrics, "metrics", metricsAddress)
		var certificates *tls.Config
		if conf.TCP != "" {
			if certificates, err = (server.Certificates{Cert: conf.TLSCert, Key: conf.TLSKey, CA: conf.TLSCA}).Config(); err != nil {
				return err
			}
		}
		ro, err := a.registry(&registryFlags{})
		if err != nil {
			return err
		}
		counted := metrics.New(version)
		a.ended = counted.Ended
		a.conf.Address = "" // what it offers is in the root
		s, err := a.open(ro)
		if err != nil {
			return err
		}
		l, err := server.Listen(ctx, server.Addresses{Socket: conf.Address, Group: conf.Group, Plugin: conf.Plugin, TCP: conf.TCP, Metrics: conf.Metrics})
		if err != nil {
			return err
		}
		release, err := server.Claim(s.Root(), l.Address(), version)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		defer func() { err = errors.Join(err, release()) }()
		a.log.Info("the daemon is ready", "root", s.Root(), "address", l.Address(), "version", version)
		tell(a.log, daemon.SdNotifyReady)
		defer context.AfterFunc(ctx, func() { tell(a.log, daemon.SdNotifyStopping) })()
		return server.Serve(ctx, s, l, server.Options{
			Version: version, NoFetch: !conf.Fetch, Grace: time.Duration(conf.Grace), Log: a.log,
			CRI: cri.Options{
				Snapshotter: a.conf.CRI.Snapshotter, Runtimes: a.conf.CRI.RuntimeSnapshotters, Pinned: a.conf.CRI.PinnedImages,
			},
			Collect: time.Duration(a.conf.GC.Schedule), Examine: time.Duration(a.conf.Doctor.Schedule),
			Metrics: counted, TLS: certificates, Trace: traced(),
		})
	}
	return cmd
}

// traced tells whether somebody collects traces, as the variables of OpenTelemetry say it.
func traced() bool {
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// tell has systemd know, if it has started us.
func tell(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "reason", err)
	}
}
