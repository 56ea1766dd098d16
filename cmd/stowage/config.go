package main

import "github.com/spf13/cobra"

func configCommand(a *app) *cobra.Command {
	return group("config", "Work with the configuration", nil, configShowCommand(a))
}
