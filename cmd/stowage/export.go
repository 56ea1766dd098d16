package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

const exportHelp = `Writes images as one tar that is an OCI layout and that docker, podman, skopeo and ctr load
as well. The same images give the same bytes every time. A file gets its name only when it
is complete; images of which something is missing are refused with the list of what is.

By default the platforms that each image was pulled or imported for are written.`

// exportFlags are the flags that export and save share.
type exportFlags struct {
	choose choiceFlags
	reg    registryFlags
	fetch  bool
	verify bool
}

func (e *exportFlags) add(cmd *cobra.Command) {
	e.choose.add(cmd, "to write")
	e.reg.add(cmd)
	cmd.Flags().BoolVar(&e.fetch, "fetch-missing", false, "get what is missing from the registry that the name points to")
	cmd.Flags().BoolVar(&e.verify, "verify", false, "hash every blob again, also those that nothing touched since they were stored")
}

func exportCommand(a *app, name string) *cobra.Command {
	var flags exportFlags
	cmd := &cobra.Command{
		Use:     name + " FILE REF...",
		Short:   "Write images as a tar; - is standard output",
		Long:    exportHelp,
		Example: "  stowage export alpine.tar alpine\n  stowage export - alpine debian | zstd > images.tar.zst",
		Args:    cobra.MinimumNArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.export(cmd, &flags, args[0], args[1:]) },
	}
	flags.add(cmd)
	return cmd
}

func saveCommand(a *app) *cobra.Command {
	var flags exportFlags
	var file string
	cmd := &cobra.Command{
		Use:     "save REF...",
		Short:   "Write images as a tar, to -o FILE or standard output",
		Long:    exportHelp,
		Example: "  stowage save -o alpine.tar alpine\n  stowage save alpine | ssh host stowage load",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.export(cmd, &flags, file, args) },
	}
	flags.add(cmd)
	cmd.Flags().StringVarP(&file, "output", "o", "", "the file to write (default standard output)")
	return cmd
}

func (a *app) export(cmd *cobra.Command, flags *exportFlags, file string, names []string) error {
	choice, err := flags.choose.choice()
	if err != nil {
		return err
	}
	ro, err := a.registry(&flags.reg)
	if err != nil {
		return err
	}
	if std(file) {
		if err := a.refuseTerminal(); err != nil {
			return err
		}
	}
	d, err := a.draw()
	if err != nil {
		return err
	}
	s, err := a.open(ro)
	if err != nil {
		return err
	}
	o := stowage.ExportOptions{Choice: choice, Verify: flags.verify, FetchMissing: flags.fetch, Progress: d.sink}
	err = a.toFile(file,
		func(w io.Writer) error { return s.Export(cmd.Context(), w, names, o) },
		func(file string) error { return s.ExportFile(cmd.Context(), file, names, o) })
	d.wait()
	return err
}

// refuseTerminal keeps tars off the screen.
func (a *app) refuseTerminal() error {
	if a.out.terminal() {
		return usagef("standard output is a terminal; name a file or redirect it")
	}
	return nil
}

// toFile writes to standard output or to a file. Closing standard output is a part of it: what
// it could not take must not end with status 0.
func (a *app) toFile(file string, stream func(io.Writer) error, named func(string) error) error {
	if !std(file) {
		return named(file)
	}
	a.streams = true
	if err := stream(a.out); err != nil {
		return err
	}
	return a.out.Close()
}
