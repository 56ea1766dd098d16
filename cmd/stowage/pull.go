package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func pullCommand(a *app, name string) *cobra.Command {
	var choose choiceFlags
	var reg registryFlags
	var streams int
	var plan, quiet bool
	var un stowage.UnpackOptions
	cmd := &cobra.Command{
		Use:   name + " REF",
		Short: "Bring an image from a registry into the store",
		Long: `Brings an image from a registry into the store: every blob of the chosen platforms, and
the manifests and configs of the others, so that "images" can say what is there and what
is not. Layers are unpacked in the same pass, so that the image can be mounted at once.
Blobs and layers that the store has are reused. A pull that is cut off goes on where it was.

The last line on standard output is NAME@DIGEST.`,
		Example: `  stowage pull alpine
  stowage pull --platform linux/arm64 registry.example.com/team/app:1.2
  stowage pull --dry-run debian:12
  stowage pull --format json alpine | jq .fetched.bytes`,
		Args: cobra.ExactArgs(1),
	}
	out := formatFlag(cmd, "table")
	choose.add(cmd, "to pull")
	reg.add(cmd)
	cmd.Flags().IntVar(&streams, "max-concurrent", 0, "blobs fetched at once (default: 4, and small ones beside them)")
	cmd.Flags().BoolVar(&plan, "dry-run", false, "say what would be fetched and reused, and do nothing")
	addUnpack(cmd, &un)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := stowage.CheckReference(args[0]); err != nil {
			return usageError{err}
		}
		choice, err := choose.choice()
		if err != nil {
			return err
		}
		ro, err := a.registry(&reg)
		if err != nil {
			return err
		}
		if quiet {
			a.progress = "none"
		}
		d, err := a.draw()
		if err != nil {
			return err
		}
		s, err := a.open(ro)
		if err != nil {
			return err
		}
		if streams == 0 {
			streams = a.conf.MaxConcurrent
		}
		res, err := s.Pull(cmd.Context(), args[0], stowage.PullOptions{
			Choice: choice, Streams: streams, OnlyPlan: plan, UnpackOptions: un, Progress: d.sink,
		})
		d.wait()
		if err != nil {
			return err
		}
		return out.print(a.out, res, []any{res}, func(w *tabwriter.Writer) {
			if plan {
				fmt.Fprintf(w, "platforms:\t%s\n", strings.Join(res.Platforms, " "))
				fmt.Fprintf(w, "fetch:\t%d blobs, %s\n", res.Fetched.Blobs, humanSize(res.Fetched.Bytes))
				fmt.Fprintf(w, "reuse:\t%d blobs, %s\n", res.Reused.Blobs, humanSize(res.Reused.Bytes))
				fmt.Fprintf(w, "disk needed:\t%s\n", humanSize(res.Fetched.Bytes))
			}
			fmt.Fprintf(w, "%s@%s\n", res.Name, res.Digest)
		})
	}
	return cmd
}
