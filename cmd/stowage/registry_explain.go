package main

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func explainCommand(a *app) *cobra.Command {
	var reg registryFlags
	var try bool
	cmd := &cobra.Command{
		Use:   "explain REF",
		Short: "Say how an image is reached, and why so",
		Long: `Says which file decides how the registry of an image is reached, which servers are asked in
which order and why, what for, with which certificates, through which proxy, and where the
credentials come from. Secrets are not shown. With --try each server is asked for its
version and for the image's manifest.`,
		Example: `  stowage registry explain alpine
  stowage registry explain --try registry.example.com/team/app:1.2
  stowage registry explain --format json alpine | jq '.hosts[].url'`,
		Args: cobra.ExactArgs(1),
	}
	out := formatFlag(cmd, "table")
	reg.add(cmd)
	cmd.Flags().BoolVar(&try, "try", false, "ask each server, and say what it answers")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := stowage.CheckReference(args[0]); err != nil {
			return usageError{err}
		}
		o, err := a.registry(&reg)
		if err != nil {
			return err
		}
		x, err := stowage.ExplainRegistry(cmd.Context(), o, args[0], try)
		if err != nil {
			return err
		}
		return out.print(a.out, x, []any{x}, func(w *tabwriter.Writer) { printExplanation(w, x) })
	}
	return cmd
}

func printExplanation(w *tabwriter.Writer, x *stowage.RegistryExplanation) {
	fmt.Fprintf(w, "reference\t%s\n", x.Reference)
	fmt.Fprintf(w, "decided by\t%s\n", cmp.Or(x.Source, "no file: the registry itself is asked"))
	for _, l := range x.Looked {
		fmt.Fprintf(w, "looked at\t%s: %s\n", l.Path, l.Found)
	}
	for i, h := range x.Hosts {
		fmt.Fprintf(w, "\n%d. %s\n", i+1, h.URL)
		fmt.Fprintf(w, "why\t%s\n", h.Why)
		fmt.Fprintf(w, "for\t%s\n", strings.Join(h.Capabilities, ", "))
		fmt.Fprintf(w, "repository\t%s\n", h.Repository)
		tls := "the certificate is verified"
		switch {
		case strings.HasPrefix(h.URL, "http:"):
			tls = "none"
		case h.SkipVerify:
			tls = "the certificate is not verified"
		}
		if h.OtherScheme != "" {
			tls += "; " + h.OtherScheme + " if the server does not speak that"
		}
		fmt.Fprintf(w, "TLS\t%s\n", tls)
		for _, file := range h.CA {
			fmt.Fprintf(w, "authority\t%s\n", file)
		}
		for _, file := range h.Client {
			fmt.Fprintf(w, "client\t%s\n", file)
		}
		fmt.Fprintf(w, "proxy\t%s\n", cmp.Or(h.Proxy, "none"))
		if len(h.Headers) > 0 {
			fmt.Fprintf(w, "headers\t%s\n", strings.Join(h.Headers, ", "))
		}
		fmt.Fprintf(w, "dial timeout\t%s\n", h.DialTimeout)
		fmt.Fprintf(w, "credentials\t%s\n", h.Credentials)
		for _, t := range h.Tried {
			fmt.Fprintf(w, "%s\t%s, in %s\n", t.Request, t.Answer, t.Duration.Round(time.Millisecond))
		}
	}
}
