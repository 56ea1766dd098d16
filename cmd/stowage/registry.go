package main

import "github.com/spf13/cobra"

func registryCommand(a *app) *cobra.Command {
	return group("registry", "Log in to registries, and see how they are reached", nil,
		loginCommand(a), logoutCommand(a), explainCommand(a))
}
