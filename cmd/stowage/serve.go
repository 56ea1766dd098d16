package main

import (
	"errors"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage/internal/server"
)

func serveCommand(a *app) *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Be a daemon: offer the store on a socket, in containerd's API",
		Long: `Offers the store on a unix socket in containerd's API, so that ctr, nerdctl, BuildKit and
programs with containerd's client library use it unchanged. Every namespace is offered.

SIGTERM and SIGINT end it: it takes no more requests, lets those under way end within the
grace time, and cancels what is left, which goes on from there when it is asked for again.
Other stowage commands may work on the same root meanwhile.`,
		Example: "  stowage serve\n  stowage serve --root /srv/images --address /run/images.sock",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&address, "address", "", "socket to listen on (STOWAGE_ADDRESS; default /run/stowage/stowage.sock)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if address != "" {
			a.conf.Server.Address = address
		}
		ro, err := a.registry(&registryFlags{})
		if err != nil {
			return err
		}
		l, err := server.Listen(ctx, a.conf.Server.Address, a.conf.Server.Group)
		if err != nil {
			return err
		}
		s, err := a.open(ro)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		return server.Serve(ctx, s, []net.Listener{l}, server.Options{
			Version: version, Grace: time.Duration(a.conf.Server.Grace), Log: a.log,
		})
	}
	return cmd
}
