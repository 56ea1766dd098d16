package main

import (
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func doctorCommand(a *app) *cobra.Command {
	var o stowage.DoctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is damaged, and mend it",
		Long: `Says which snapshotters work on the store's filesystem, why the others do not, and which one
is used when none is named. Then it looks for every kind of damage in the store, in all of its
namespaces. It may run beside anything else.

With --repair what is found is mended: blobs are fetched again from where they came from, or
from what --from names; layers are unpacked again; what nobody knows is adopted or removed.
Blobs that are wrong are put into quarantine, and not deleted. References are kept, and images
that are in use stay mounted. Then it looks again. --limit-rate also holds for what --verify
reads.

Exit status 4 if anything is left.`,
		Example: `  stowage doctor
  stowage doctor --verify --repair
  stowage doctor --repair --from backup.tar --from mirror.example.com
  stowage doctor --format json | jq -r '.[].subject'`,
		Args: cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	var reg registryFlags
	reg.add(cmd)
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "mend what is found")
	cmd.Flags().BoolVar(&o.Verify, "verify", false, "read every blob and every unpacked tree as well")
	cmd.Flags().StringArrayVar(&o.From, "from", nil, "archive, folder, registry or repository `PLACE` to fetch from before all others (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.Rate, err = parseRate(reg.limitRate); err != nil { // also of what is read here
			return usagef("--limit-rate %s: %w", reg.limitRate, err)
		}
		if len(o.From) > 0 && !o.Repair {
			return usagef("--from needs --repair: without it nothing is fetched")
		}
		ro, err := a.registry(&reg)
		if err != nil {
			return err
		}
		d, err := a.draw()
		if err != nil {
			return err
		}
		s, err := a.open(ro)
		if err != nil {
			return err
		}
		o.Progress = d.sink
		r, err := s.Doctor(cmd.Context(), o)
		d.wait()
		if r == nil {
			return err
		}
		printErr := out.print(a.out, r.Findings, anys(r.Findings), func(w *tabwriter.Writer) { printDoctor(w, r, o.Repair) })
		if err = errors.Join(err, printErr); err != nil {
			return err
		}
		if slices.ContainsFunc(r.Findings, func(f stowage.Finding) bool { return !f.Repaired }) {
			return errors.Join(errReported, errNotWhole)
		}
		return nil
	}
	return cmd
}

func printDoctor(w *tabwriter.Writer, r *stowage.DoctorReport, repaired bool) {
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
		outcome := "to mend it"
		switch {
		case f.Repaired:
			outcome = "mended"
		case repaired:
			outcome = "not mended"
		}
		fmt.Fprintf(w, "%s\t%s\t%s; %s: %s\n", f.Kind, f.Subject, f.Detail, outcome, f.Repair)
	}
}
