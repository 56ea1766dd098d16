package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage/internal/config"
)

func configShowCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show what is configured, and where each value comes from",
		Long: `Shows every key of the configuration with its value and its origin: default, the name of
the file, the variable of the environment, or the flag. Later ones have the last word.

What is said of registries is shown by "registry explain".`,
		Example: "  stowage config show\n  stowage config show --format '{{.key}}={{.value}}'",
		Args:    cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.RunE = func(*cobra.Command, []string) error {
		list := a.conf.Values()
		return out.print(a.out, list, anys(list), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "KEY\tVALUE\tORIGIN")
			for _, v := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\n", v.Key, shown(v), v.Origin)
			}
		})
	}
	return cmd
}

// shown is a value in a table: as JSON, strings without their quotes, and - for nothing.
func shown(v config.Value) string {
	b, err := json.Marshal(v.Value)
	if err != nil {
		return err.Error()
	}
	var text string
	if json.Unmarshal(b, &text) != nil {
		text = string(b)
	}
	switch text {
	case "", "null", "{}", "[]":
		return "-"
	}
	return text
}
