package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

func pruneCommand(a *app) *cobra.Command {
	var o stowage.ImagePruneOptions
	var filters []string
	var quiet, force bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Take names away that nobody uses, and delete what only they kept",
		Long: `Takes away the names of images that have no tag (those named by a digest alone, of which
no name with a tag is here), or with --all of all images, and deletes what only they kept.
What is mounted, leased or in use by a running operation stays, and so does an image with a
label called stowage.pin, or io.cri-containerd.pinned=pinned; the list says why.

Filters, all of which must hold: until=TIME (not pulled, imported, mounted, exported or pushed
since; a time ago such as 24h or 7d, or RFC 3339, a date, or seconds since 1970),
label=KEY[=VALUE], label!=KEY[=VALUE].

Nothing is asked before. "image restore" brings names back while their content is there, which
after this command it is only where something else needs it: see first with --dry-run.`,
		Example: `  stowage image prune --dry-run --all
  stowage image prune --all --filter until=7d --filter label!=team=base
  stowage image label alpine stowage.pin=yes`,
		Args: cobra.NoArgs,
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "images with a tag as well")
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "only what matches KEY=VALUE (repeatable)")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would go, and keep it")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "for fingers used to docker: nothing is asked anyway")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the names that were taken away")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := pruneFilters(&o, filters, time.Now()); err != nil {
			return err
		}
		s, err := a.local()
		if err != nil {
			return err
		}
		r, err := s.PruneImages(cmd.Context(), o)
		if r == nil {
			return err
		}
		if quiet {
			for _, name := range r.Images {
				fmt.Fprintln(a.out, name)
			}
			return err
		}
		printErr := out.print(a.out, r, []any{r}, func(w *tabwriter.Writer) {
			verb := "removed"
			if o.DryRun {
				verb = "would remove"
			}
			for _, name := range r.Images {
				fmt.Fprintf(w, "%s\t%s\n", verb, name)
			}
			for _, k := range r.Kept {
				fmt.Fprintf(w, "kept\t%s\t%s\n", k.Name, usesText(k.Uses))
			}
			printFreed(w, &r.PruneReport, o.DryRun)
		})
		if err == nil && !o.All && len(r.Images)+len(r.Kept) == 0 {
			fmt.Fprintln(a.err, "hint: only images without a tag were looked at; --all is for all")
		}
		if err == nil {
			err = printErr
		}
		return err
	}
	return cmd
}

// usesText says what an image is needed for.
func usesText(uses []stowage.Use) string {
	texts := make([]string, len(uses))
	for i, u := range uses {
		texts[i] = u.String()
	}
	return strings.Join(texts, "; ")
}

// pruneFilters reads --filter into the options.
func pruneFilters(o *stowage.ImagePruneOptions, filters []string, now time.Time) error {
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok || value == "" {
			return usagef("--filter %q: want KEY=VALUE", f)
		}
		switch key {
		case "until":
			at, ok := parseSince(value, now)
			if !ok {
				return usagef("--filter %q: want a time ago such as 24h or 7d, or RFC 3339, a date, or seconds since 1970", f)
			}
			if o.Since.IsZero() || at.Before(o.Since) {
				o.Since = at
			}
		case "label":
			o.Labels = append(o.Labels, value)
		case "label!":
			o.NotLabels = append(o.NotLabels, value)
		default:
			return usagef("--filter %q: want until, label or label!", f)
		}
	}
	return nil
}

// parseSince reads a point in time, or how long ago it was.
func parseSince(text string, now time.Time) (time.Time, bool) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), true
	}
	if digits, ok := strings.CutSuffix(text, "d"); ok {
		if days, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(days)), true
		}
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil && seconds > 0 {
		return time.Unix(seconds, 0), true
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// printPruned prints what a collection took away, or would take.
func printPruned(a *app, out *format, r *stowage.PruneReport, dry bool) error {
	return out.print(a.out, r, []any{r}, func(w *tabwriter.Writer) {
		for _, b := range r.Blobs {
			fmt.Fprintf(w, "%s\t%s\n", b.Digest, humanSize(b.Size))
		}
		for _, sn := range r.Snapshots {
			fmt.Fprintf(w, "%s\t%s snapshot\n", sn.Key, sn.Snapshotter)
		}
		for _, name := range r.Images {
			fmt.Fprintf(w, "%s\texpired image\n", name)
		}
		for _, key := range r.Ingests {
			fmt.Fprintf(w, "%s\tunfinished\n", key)
		}
		printFreed(w, r, dry)
	})
}

// printFreed says how much came free, or would.
func printFreed(w *tabwriter.Writer, r *stowage.PruneReport, dry bool) {
	verb := "freed"
	if dry {
		verb = "would free"
	}
	fmt.Fprintf(w, "%s %s in %d blobs\n", verb, humanSize(r.Bytes), len(r.Blobs))
	if len(r.Snapshots) > 0 || r.Unpacked.Inodes > 0 {
		fmt.Fprintf(w, "%s %s in %d snapshots\n", verb, humanSize(r.Unpacked.Size), len(r.Snapshots))
	}
}
