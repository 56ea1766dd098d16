package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

const importHelp = `Reads images from a docker or OCI archive, plain or compressed (gzip, zstd, bzip2, xz), or
from the folder of an OCI layout. Every blob is verified. Platforms that the archive leaves
out are recorded as absent; with --platform or --all-platforms those named must be whole.
Layers are unpacked in the same pass: those of the platforms named, else of the host's, or
of the only one.

Prints NAME@DIGEST for every image.`

// importFlags are the flags that import and load share.
type importFlags struct {
	choose choiceFlags
	tag    string
	unpack stowage.UnpackOptions
	quiet  bool
	out    *format
}

func (i *importFlags) add(cmd *cobra.Command) {
	i.choose.add(cmd, "that must be whole")
	cmd.Flags().StringVar(&i.tag, "tag", "", "name for an image that the archive leaves unnamed")
	addUnpack(cmd, &i.unpack)
	cmd.Flags().BoolVarP(&i.quiet, "quiet", "q", false, "no progress")
	i.out = formatFlag(cmd, "table")
}

func importCommand(a *app, name string) *cobra.Command {
	var flags importFlags
	cmd := &cobra.Command{
		Use:     name + " FILE",
		Short:   "Read images from an archive; - is standard input",
		Long:    importHelp,
		Example: "  stowage import images.tar.zst\n  docker save alpine | stowage import -",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.importFrom(cmd, &flags, args[0]) },
	}
	flags.add(cmd)
	return cmd
}

func loadCommand(a *app) *cobra.Command {
	var flags importFlags
	var file string
	cmd := &cobra.Command{
		Use:     "load",
		Short:   "Read images from an archive: -i FILE or standard input",
		Long:    importHelp,
		Example: "  stowage load -i alpine.tar\n  docker save alpine | stowage load",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.importFrom(cmd, &flags, file) },
	}
	flags.add(cmd)
	cmd.Flags().StringVarP(&file, "input", "i", "", "the file or folder to read (default standard input)")
	return cmd
}

func (a *app) importFrom(cmd *cobra.Command, flags *importFlags, file string) error {
	choice, err := flags.choose.choice()
	if err != nil {
		return err
	}
	if flags.quiet {
		a.progress = "none"
	}
	d, err := a.draw()
	if err != nil {
		return err
	}
	s, err := a.local()
	if err != nil {
		return err
	}
	o := stowage.ImportOptions{Choice: choice, Tag: flags.tag, UnpackOptions: flags.unpack, Progress: d.sink}
	var res *stowage.ImportResult
	if std(file) {
		res, err = s.Import(cmd.Context(), a.in, o)
	} else {
		res, err = s.ImportFile(cmd.Context(), file, o)
	}
	d.wait()
	if res == nil {
		return err
	}
	for _, w := range res.Warnings {
		fmt.Fprintf(a.err, "warning: %s\n", w)
	}
	printErr := flags.out.print(a.out, res, anys(res.Images), func(w *tabwriter.Writer) {
		for _, img := range res.Images {
			fmt.Fprintf(w, "%s@%s\n", img.Name, img.Digest)
		}
	})
	if err == nil {
		err = printErr
	}
	return err
}
