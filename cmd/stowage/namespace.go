package main

import "github.com/spf13/cobra"

func namespaceCommand(a *app) *cobra.Command {
	return group("namespace", "Work with namespaces", []string{"namespaces", "ns"},
		namespaceLsCommand(a), namespaceCreateCommand(a), namespaceRmCommand(a), namespaceLabelCommand(a))
}
