package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

// labelCommand sets labels of whatever its first argument names.
func labelCommand(a *app, cmd *cobra.Command, set func(*stowage.Store, context.Context, string, map[string]string) error) *cobra.Command {
	cmd.Args = cobra.MinimumNArgs(2)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := parseLabels(args[1:])
		if err != nil {
			return err
		}
		s, err := a.local()
		if err != nil {
			return err
		}
		return set(s, cmd.Context(), args[0], m)
	}
	return cmd
}

func labelImageCommand(a *app) *cobra.Command {
	return labelCommand(a, &cobra.Command{
		Use:     "label REF K=V...",
		Short:   "Set labels of an image; K= removes one",
		Example: "  stowage image label alpine team=base\n  stowage image label alpine team=",
	}, (*stowage.Store).LabelImage)
}

func contentLabelCommand(a *app) *cobra.Command {
	return labelCommand(a, &cobra.Command{
		Use: "label DIGEST K=V...", Short: "Set labels of a blob; K= removes one",
		Example: "  stowage content label sha256:4fe2ade4980c keep=yes",
	}, (*stowage.Store).LabelBlob)
}

func namespaceLabelCommand(a *app) *cobra.Command {
	return labelCommand(a, &cobra.Command{
		Use: "label NAME K=V...", Short: "Set labels of a namespace; K= removes one",
		Example: "  stowage namespace label team owner=bob",
	}, (*stowage.Store).LabelNamespace)
}
