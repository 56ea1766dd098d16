package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func loginCommand(a *app) *cobra.Command {
	var reg registryFlags
	var stdin bool
	cmd := &cobra.Command{
		Use:   "login [HOST]",
		Short: "Log in to a registry",
		Long: `Asks a registry (docker.io if none is named) whether it takes a user name and a password,
and keeps them where docker does: with the credential helper that docker's config.json names, or
else in that file. DOCKER_CONFIG is the folder of another one; REGISTRY_AUTH_FILE is a file of
podman's. What docker and podman are logged in to, stowage is logged in to as well.`,
		Example: `  stowage login registry.example.com
  stowage login -u ci --password-stdin registry.example.com <token.txt`,
		Args: cobra.MaximumNArgs(1),
	}
	reg.add(cmd)
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "take the password from standard input")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		host, err := hostArg(args)
		if err != nil {
			return err
		}
		if stdin {
			if reg.user == "" || strings.Contains(reg.user, ":") {
				return usagef("--password-stdin: give the user name, and it alone, with -u")
			}
			pass, err := a.readPassword()
			if err != nil {
				return err
			}
			reg.user += ":" + pass
		}
		o, err := a.registry(&reg)
		if err != nil {
			return err
		}
		if o.Username == "" {
			if o.Username, err = a.askUser(); err != nil {
				return err
			}
			if o.Password, err = a.askPassword(o.Username); err != nil {
				return err
			}
		}
		stored, err := stowage.Login(cmd.Context(), o, host, o.Username, o.Password)
		if errdefs.IsUnauthorized(err) {
			// The registry was reached, and what was asked for did not come about: that is no more
			// than a failure, unlike that of a pull.
			return errors.New(err.Error())
		}
		if err != nil {
			return err
		}
		if stored.Helper == "" {
			fmt.Fprintf(a.err, "hint: the password is in %s as it is; a credential helper, named there as credsStore, keeps it better\n", stored.File)
		}
		_, err = fmt.Fprintln(a.out, "Login Succeeded")
		return err
	}
	return cmd
}

func hostArg(args []string) (string, error) {
	if len(args) == 0 {
		return "docker.io", nil
	}
	if err := stowage.CheckRegistry(args[0]); err != nil {
		return "", usageError{err}
	}
	return args[0], nil
}
