package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func checkCommand(a *app) *cobra.Command {
	var verify, quiet bool
	cmd := &cobra.Command{
		Use:   "check [REF...]",
		Short: "See that everything that images need is there",
		Long: `Looks on the disk for every blob that images need, for the platforms that they were
pulled or imported for; without REF, for all images. With --verify the blobs are also read
and compared with their digests. Exits with 4 if an image is not complete.`,
		Example: "  stowage image check\n  stowage image check --verify alpine",
		Args:    cobra.ArbitraryArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVar(&verify, "verify", false, "read every blob and compare its digest")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the names of images that are not in order")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		images, err := a.named(cmd, s, args)
		if err != nil {
			return err
		}
		var how *stowage.VerifyOptions
		if verify {
			how = &stowage.VerifyOptions{}
		}
		findings, err := s.CheckImages(cmd.Context(), images, how)
		if err != nil {
			return err
		}
		whole := !slices.ContainsFunc(findings, func(f stowage.ImageFinding) bool { return !f.Whole() })
		if quiet {
			for _, f := range findings {
				if !f.Whole() {
					fmt.Fprintln(a.out, f.Name)
				}
			}
		} else if err := out.print(a.out, findings, anys(findings), func(w *tabwriter.Writer) { printFindings(w, findings) }); err != nil {
			return err
		}
		if !whole {
			fmt.Fprintln(a.err, "hint: `stowage pull REF` gets what is missing; `stowage content rm --force DIGEST` lets go of what is corrupt, so that a pull brings it again")
			return errors.Join(errReported, errNotWhole)
		}
		return nil
	}
	return cmd
}

// named finds the images that were asked for; none asked for means all.
func (a *app) named(cmd *cobra.Command, s *stowage.Store, args []string) ([]stowage.Image, error) {
	if len(args) == 0 {
		return s.Images(cmd.Context())
	}
	var images []stowage.Image
	for _, name := range args {
		img, err := s.Image(cmd.Context(), name)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

func printFindings(w *tabwriter.Writer, findings []stowage.ImageFinding) {
	fmt.Fprintln(w, "NAME\tSTATE\tBLOBS\tDETAIL")
	for _, f := range findings {
		state := string(f.State)
		if len(f.Corrupt) > 0 {
			state = "damaged"
		}
		detail := "-"
		if len(f.Absent) > 0 {
			detail = "not here, and not asked for: " + strings.Join(f.Absent, " ")
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", f.Name, state, f.Blobs, detail)
		for _, d := range f.Missing {
			fmt.Fprintf(w, "\tmissing\t\t%s\n", d)
		}
		for _, d := range f.Corrupt {
			fmt.Fprintf(w, "\tcorrupt\t\t%s\n", d)
		}
	}
}
