package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func snapshotTreeCommand(a *app, f *snapshotFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "tree", Short: "Show which snapshot stands on which",
		Args: cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := f.walk(cmd.Context(), a)
		if err != nil {
			return err
		}
		above := map[string][]string{}
		for _, row := range list {
			above[row.Parent] = append(above[row.Parent], row.Key)
		}
		var show func(parent string, depth int)
		show = func(parent string, depth int) {
			for _, key := range above[parent] {
				fmt.Fprintf(a.out, "%s\\_ %s\n", strings.Repeat("  ", depth), key)
				show(key, depth+1)
			}
		}
		show("", 0)
		return nil
	}
	return cmd
}
