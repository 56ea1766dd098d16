package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func duCommand(a *app) *cobra.Command {
	var exact, quiet bool
	cmd := &cobra.Command{
		Use:   "du",
		Short: "What takes space on the disk: images, and the store as a whole",
		Long: `Lists what the images of the namespace take on the disk, packed and unpacked:

  SIZE       all that the image needs
  SHARED     the part that other images need as well, of whatever namespace
  UNIQUE     the part that only this image needs, and that its removal frees
  UNPACKED   the part that is unpacked layers

and then what the store takes, by type. The total is what "du -s" of the store's folder says.
UNREFERENCED is what no image needs: "gc" deletes of it what nothing else needs, such as a
lease. Sizes are of the blocks on the disk; a file counts once however many images need it.`,
		Example: "  stowage du\n  stowage du --format json | jq .size",
		Args:    cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVarP(&exact, "bytes", "b", false, "sizes in bytes")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "the total alone, in bytes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		u, err := s.DiskUsage(cmd.Context())
		if u == nil {
			return err
		}
		if quiet {
			fmt.Fprintln(a.out, u.Size)
			return err
		}
		size := humanSize
		if exact {
			size = func(n int64) string { return fmt.Sprint(n) }
		}
		printErr := out.print(a.out, u, anys(u.Images), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "NAME\tSIZE\tSHARED\tUNIQUE\tUNPACKED")
			for _, i := range u.Images {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.Name, size(i.Size), size(i.Shared), size(i.Unique), size(i.Unpacked))
			}
			fmt.Fprintln(w, "\nTYPE\tCOUNT\tSIZE\tUNREFERENCED")
			for _, t := range u.Totals {
				fmt.Fprintln(w, totalRow(t, size))
			}
			fmt.Fprintf(w, "total\t\t%s\t%s\n", size(u.Size), size(u.Unreferenced))
		})
		if err == nil {
			err = printErr
		}
		return err
	}
	return cmd
}

// totalRow is the columns of what one type takes.
func totalRow(t stowage.DiskTotal, size func(int64) string) string {
	name, count, unreferenced := t.Type, "-", "-"
	if t.Snapshotter != "" {
		name += " (" + t.Snapshotter + ")"
	}
	if t.Count > 0 {
		count, unreferenced = fmt.Sprint(t.Count), size(t.Unreferenced)
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s", name, count, size(t.Size), unreferenced)
}
