package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func pushCommand(a *app, name string) *cobra.Command {
	var flags moveFlags
	var fetch bool
	cmd := &cobra.Command{
		Use:   name + " REF [TARGET]",
		Short: "Bring a stored image to a registry",
		Long: `Brings a stored image to a registry under the name TARGET, or under its own. What the
registry has is not sent; what another of its repositories has is taken from there. What
refers to the image, such as signatures and SBOMs, follows, and so does what is stored here under
cosign's tags in the image's repository. The name comes last: a push that
is cut off leaves none, and the same command goes on from there.

An index is pushed as it is, and needs all that it lists, here or at the registry. With one
--platform, that platform's manifest is pushed alone; with several, a new index of exactly
these. What stays behind is said on standard error.

The last line on standard output is TARGET@DIGEST.`,
		Example: `  stowage push registry.example.com/team/app:1.2
  stowage push alpine registry.example.com/mirror/alpine:3
  stowage push --platform linux/amd64 --platform linux/arm64 app:1 registry.example.com/app:1`,
		Args: cobra.RangeArgs(1, 2),
	}
	flags.add(cmd, "to push")
	cmd.Flags().BoolVar(&fetch, "fetch-missing", false, "first get what is missing from the registry that the name points to")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		target := ""
		if len(args) > 1 {
			target = args[1]
			if err := stowage.CheckReference(target); err != nil {
				return usageError{err}
			}
		}
		move, err := a.move(&flags)
		if err != nil {
			return err
		}
		s, err := a.open(move.reg)
		if err != nil {
			return err
		}
		res, err := s.Push(cmd.Context(), args[0], target, stowage.PushOptions{
			Choice: move.choice, Streams: move.streams, NoReferrers: flags.noReferrers, FetchMissing: fetch, Progress: move.sink,
		})
		move.wait()
		if err != nil {
			return err
		}
		return a.moved(&flags, res)
	}
	return cmd
}

// moveFlags are the flags that push and copy share.
type moveFlags struct {
	choose      choiceFlags
	reg         registryFlags
	streams     int
	noReferrers bool
	quiet       bool
	out         *format
}

func (f *moveFlags) add(cmd *cobra.Command, of string) {
	f.out = formatFlag(cmd, "table")
	f.choose.add(cmd, of)
	f.reg.add(cmd)
	cmd.Flags().IntVar(&f.streams, "max-concurrent", 0, "blobs moved at once (default: 4, and small ones beside them)")
	cmd.Flags().BoolVar(&f.noReferrers, "no-referrers", false, "leave out what refers to the image: signatures, SBOMs, attestations")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
}

// A move is what the flags of a push or a copy say.
type move struct {
	drawer
	choice  stowage.Choice
	reg     stowage.RegistryOptions
	streams int
}

func (a *app) move(f *moveFlags) (m move, err error) {
	if m.choice, err = f.choose.choice(); err != nil {
		return m, err
	}
	if m.reg, err = a.registry(&f.reg); err != nil {
		return m, err
	}
	if m.streams = f.streams; m.streams == 0 {
		m.streams = a.conf.MaxConcurrent
	}
	if f.quiet {
		a.progress = "none"
	}
	m.drawer, err = a.draw()
	return m, err
}

// moved prints what a push or a copy did.
func (a *app) moved(f *moveFlags, res *stowage.PushResult) error {
	return f.out.print(a.out, res, []any{res}, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%s@%s\n", res.Name, res.Digest)
	})
}
