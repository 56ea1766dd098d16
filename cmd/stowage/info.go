package main

import (
	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func infoCommand(a *app) *cobra.Command {
	var platform string
	cmd := &cobra.Command{
		Use:   "info REF",
		Short: "Describe an image: one JSON document",
		Example: `  stowage image info alpine | jq .layers
  stowage image info --platform linux/arm64 alpine | jq -r .config.config.Cmd`,
		Args: cobra.ExactArgs(1),
	}
	out := formatFlag(cmd, "json")
	cmd.Flags().StringVar(&platform, "platform", "", "which platform's image (default the host's, or what is here)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var want *stowage.Platform
		if platform != "" {
			p, err := stowage.ParsePlatform(platform)
			if err != nil {
				return usagef("--platform %s: %w", platform, err)
			}
			want = &p
		}
		s, err := a.local()
		if err != nil {
			return err
		}
		info, err := s.Info(cmd.Context(), args[0], want)
		if err != nil {
			return err
		}
		return out.document(a.out, info)
	}
	return cmd
}
