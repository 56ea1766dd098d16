package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func namespaceCommand(a *app) *cobra.Command {
	return group("namespace", "Work with namespaces", []string{"namespaces", "ns"},
		namespaceLsCommand(a), namespaceCreateCommand(a), namespaceRmCommand(a), namespaceLabelCommand(a))
}

func namespaceLsCommand(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List namespaces",
		Args: cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		list, err := s.Namespaces(cmd.Context())
		if err != nil {
			return err
		}
		if quiet {
			for _, n := range list {
				fmt.Fprintln(a.out, n.Name)
			}
			return nil
		}
		return out.print(a.out, list, anys(list), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "NAME\tLABELS")
			for _, n := range list {
				fmt.Fprintf(w, "%s\t%s\n", n.Name, labels(n.Labels))
			}
		})
	}
	return cmd
}

func namespaceCreateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "create NAME [K=V...]", Short: "Make a namespace", Aliases: []string{"c"},
		Example: "  stowage namespace create team owner=alice",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := parseLabels(args[1:])
			if err != nil {
				return err
			}
			s, err := a.local()
			if err != nil {
				return err
			}
			return s.CreateNamespace(cmd.Context(), args[0], m)
		},
	}
}

func namespaceRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"remove", "delete", "del"}, Short: "Remove empty namespaces",
		Example: "  stowage namespace rm team",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.local()
			if err != nil {
				return err
			}
			for _, n := range args {
				if err := s.DeleteNamespace(cmd.Context(), n); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func namespaceLabelCommand(a *app) *cobra.Command {
	return labelCommand(a, &cobra.Command{
		Use: "label NAME K=V...", Short: "Set labels of a namespace; K= removes one",
		Example: "  stowage namespace label team owner=bob",
	}, (*stowage.Store).LabelNamespace)
}
