package main

import "github.com/spf13/cobra"

func leaseCommand(a *app) *cobra.Command {
	return group("lease", "Keep content from collection", []string{"leases"},
		leaseLsCommand(a), leaseCreateCommand(a), leaseRmCommand(a))
}
