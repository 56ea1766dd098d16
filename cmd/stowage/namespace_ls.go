package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func namespaceLsCommand(a *app) *cobra.Command {
	return listing[stowage.Namespace]{
		short: "List namespaces", quiet: "names only",
		list: func(ctx context.Context) ([]stowage.Namespace, error) {
			s, err := a.local()
			if err != nil {
				return nil, err
			}
			return s.Namespaces(ctx)
		},
		name:   func(n stowage.Namespace) string { return n.Name },
		header: "NAME\tLABELS",
		row:    func(n stowage.Namespace) string { return n.Name + "\t" + labels(n.Labels) },
	}.command(a)
}
