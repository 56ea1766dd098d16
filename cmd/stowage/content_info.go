package main

import "github.com/spf13/cobra"

func contentInfoCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "info DIGEST", Short: "Describe a blob: one JSON document",
		Example: "  stowage content info sha256:4fe2ade4980c | jq .referencedBy",
		Args:    cobra.ExactArgs(1),
	}
	out := formatFlag(cmd, "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		info, err := s.Blob(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return out.document(a.out, info)
	}
	return cmd
}
