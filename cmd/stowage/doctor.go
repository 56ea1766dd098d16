package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func doctorCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what works here, and what is not whole",
		Long: `Says which snapshotters work on the store's filesystem, why the others do not, and which one
is used when none is named. Then lists images of which blobs are missing and snapshots whose
files are gone, with what would mend them. It changes nothing; exit status 4 if it found any.`,
		Example: "  stowage doctor\n  stowage doctor --format json | jq -r '.[].subject'",
		Args:    cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		r, err := s.Doctor(cmd.Context())
		if err != nil {
			return err
		}
		err = out.print(a.out, r.Findings, anys(r.Findings), func(w *tabwriter.Writer) {
			for _, sn := range r.Snapshotters {
				state := "works"
				switch {
				case sn.Reason != "":
					state = "does not work: " + sn.Reason
				case sn.Default:
					state = "works, and is used when none is named"
				}
				fmt.Fprintf(w, "snapshotter\t%s\t%s\n", sn.Name, state)
			}
			for _, f := range r.Findings {
				fmt.Fprintf(w, "%s\t%s\t%s; to mend it: %s\n", f.Kind, f.Subject, f.Detail, f.Repair)
			}
		})
		if err == nil && len(r.Findings) > 0 {
			err = errors.Join(errReported, errNotWhole)
		}
		return err
	}
	return cmd
}
