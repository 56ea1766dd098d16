package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func logoutCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "logout [HOST]",
		Short: "Log out from a registry",
		Long: `Forgets the password of a registry (docker.io if none is named) in the files of docker and
podman, and in the credential helpers that they name.`,
		Example: `  stowage logout registry.example.com`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := hostArg(args)
			if err != nil {
				return err
			}
			o, err := a.registry(&registryFlags{})
			if err != nil {
				return err
			}
			from, err := stowage.Logout(cmd.Context(), o, host)
			if err != nil {
				return err
			}
			if len(from) == 0 {
				_, err = fmt.Fprintf(a.out, "Not logged in to %s\n", host)
				return err
			}
			_, err = fmt.Fprintf(a.out, "Removing login credentials for %s\n", host)
			return err
		},
	}
}
