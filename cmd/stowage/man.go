package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand is for those who make packages.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages of all commands into a folder",
		Example: "  stowage man /usr/share/man/man1",
		Args:    cobra.ExactArgs(1),
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			root := cmd.Root()
			everyCommand(root, func(c *cobra.Command) {
				if c.Hidden || err != nil {
					return
				}
				err = writeManual(filepath.Join(args[0], manName(c)+".1"), c)
			})
			return err
		},
	}
}

func writeManual(file string, c *cobra.Command) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return manual(f, c)
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manual writes the page of a command in the macros of man(7).
func manual(w io.Writer, c *cobra.Command) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`.TH "%s" "1" "" "stowage %s" "Stowage"`, strings.ToUpper(roff(manName(c))), roff(version))
	line(".SH NAME\n%s \\- %s", roff(manName(c)), roff(c.Short))
	line(".SH SYNOPSIS\n.B %s", roff(c.UseLine()))
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	line(".SH DESCRIPTION\n%s", strings.ReplaceAll(roff(long), "\n\n", "\n.PP\n"))
	var subs []*cobra.Command
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "help" {
			subs = append(subs, sub)
		}
	}
	if len(subs) > 0 {
		line(".SH COMMANDS")
		for _, sub := range subs {
			line(".TP\n.BR %s (1)\n%s", roff(manName(sub)), roff(sub.Short))
		}
	}
	options := func(title string, set *pflag.FlagSet) {
		if !set.HasAvailableFlags() {
			return
		}
		line(".SH %s", title)
		set.VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			names := "--" + f.Name
			if f.Shorthand != "" {
				names = "-" + f.Shorthand + ", " + names
			}
			value, usage := pflag.UnquoteUsage(f)
			line(".TP\n.B %s\n%s", roff(strings.TrimSpace(names+" "+value)), roff(usage))
		})
	}
	options("OPTIONS", c.NonInheritedFlags())
	options("OPTIONS OF EVERY COMMAND", c.InheritedFlags())
	if c.Example != "" {
		line(".SH EXAMPLES\n.nf\n%s\n.fi", roff(c.Example))
	}
	if c.HasParent() {
		line(".SH SEE ALSO\n.BR %s (1)", roff(manName(c.Parent())))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// roff escapes text, so that it stands in a page as it is.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
