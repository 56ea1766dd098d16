package main

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

// imageRow is what `image ls` tells of an image; the names of its fields are relied upon.
type imageRow struct {
	Name      string            `json:"name"`
	Digest    stowage.Digest    `json:"digest"`
	MediaType string            `json:"mediaType"`
	Size      int64             `json:"size"`
	Platforms []platformRow     `json:"platforms"`
	State     stowage.State     `json:"state"`
	CreatedAt time.Time         `json:"createdAt"`
	UpdatedAt time.Time         `json:"updatedAt"`
	Labels    map[string]string `json:"labels"`
	RemovedAt *time.Time        `json:"removedAt,omitempty"`
}

type platformRow struct {
	Platform string        `json:"platform"`
	State    stowage.State `json:"state"`
}

func lsCommand(a *app, name string) *cobra.Command {
	var filters []string
	var quiet, all bool
	cmd := &cobra.Command{
		Use:   name,
		Short: "List the images of the store",
		Long: `Lists the images of the store. STATE says how much of an image is here:

  complete   everything that it was pulled or imported for
  partial    some of that is missing; "image check" says what
  lazy       what is missing can be fetched on demand
  removed    its name was taken away, and "image restore" brings it back (with --all)
  collected  it was removed, and so was its content since then (with --all)

Names that were removed are remembered for a day, or for as long as grace in the [gc]
section of the configuration says.

Filters, all of which must hold: name=PATTERN (a shell pattern, or a part of the name),
state=STATE, platform=PLATFORM (one that is complete), digest=PREFIX, label=KEY[=VALUE].`,
		Example: `  stowage images
  stowage images --filter state=partial -q
  stowage images --all --filter state=removed
  stowage images --format json | jq -r '.[].name'
  stowage images --format '{{.name}} {{.size}}'`,
		Args: cobra.NoArgs,
	}
	if name == "ls" {
		cmd.Aliases = []string{"list"}
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "show only what matches KEY=VALUE (repeatable)")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also the names that were removed lately")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		keep, err := imageFilter(filters)
		if err != nil {
			return err
		}
		s, err := a.local()
		if err != nil {
			return err
		}
		images, listErr := s.Images(cmd.Context())
		rows := make([]imageRow, 0, len(images))
		for _, img := range images {
			if row := newImageRow(img); keep(row) {
				rows = append(rows, row)
			}
		}
		if all {
			removed, err := s.RemovedImages(cmd.Context())
			listErr = errors.Join(listErr, err)
			for _, img := range removed {
				if row := removedRow(img); keep(row) {
					rows = append(rows, row)
				}
			}
			slices.SortStableFunc(rows, func(a, b imageRow) int { return strings.Compare(a.Name, b.Name) })
		}
		if quiet {
			for _, r := range rows {
				fmt.Fprintln(a.out, r.Name)
			}
			return listErr
		}
		now := time.Now()
		err = out.print(a.out, rows, anys(rows), func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "NAME\tDIGEST\tSIZE\tPLATFORMS\tSTATE\tAGE")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Digest, humanSize(r.Size), r.platforms(), r.state(now), humanAge(r.UpdatedAt, now))
			}
		})
		return errors.Join(err, listErr)
	}
	return cmd
}

func newImageRow(img stowage.Image) imageRow {
	r := imageRow{
		Name: img.Name, Digest: img.Target.Digest, MediaType: img.Target.MediaType, Size: img.Size,
		Platforms: []platformRow{}, State: img.State, CreatedAt: img.CreatedAt, UpdatedAt: img.UpdatedAt, Labels: img.Labels,
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	for _, p := range img.Platforms {
		r.Platforms = append(r.Platforms, platformRow{stowage.FormatPlatform(p.Platform), p.State})
	}
	return r
}

// removedRow is the row of a name that was taken away.
func removedRow(img stowage.RemovedImage) imageRow {
	r := newImageRow(img.Image)
	r.RemovedAt = &img.RemovedAt
	if r.State == stowage.Absent {
		r.State = "collected"
	} else {
		r.State = "removed"
	}
	return r
}

// state also shows when a name was taken away.
func (r imageRow) state(now time.Time) string {
	if r.RemovedAt == nil {
		return string(r.State)
	}
	return fmt.Sprintf("%s (%s ago)", r.State, humanAge(*r.RemovedAt, now))
}

// platforms shows what is here, and how many platforms are not.
func (r imageRow) platforms() string {
	var here []string
	absent := 0
	for _, p := range r.Platforms {
		switch p.State {
		case stowage.Absent:
			absent++
		case stowage.Complete:
			here = append(here, p.Platform)
		default:
			here = append(here, fmt.Sprintf("%s(%s)", p.Platform, p.State))
		}
	}
	text := strings.Join(here, ",")
	if text == "" {
		text = "-"
	}
	if absent > 0 {
		text += fmt.Sprintf(" (+%d absent)", absent)
	}
	return text
}

// imageFilter makes one test from all filters.
func imageFilter(filters []string) (func(imageRow) bool, error) {
	var tests []func(imageRow) bool
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok || value == "" {
			return nil, usagef("--filter %q: want KEY=VALUE", f)
		}
		switch key {
		case "name", "reference":
			if _, err := path.Match(value, ""); err != nil {
				return nil, usagef("--filter %q: %w", f, err)
			}
			tests = append(tests, func(r imageRow) bool {
				ok, _ := path.Match(value, r.Name) // the pattern was tried above
				return ok || strings.Contains(r.Name, value)
			})
		case "state":
			tests = append(tests, func(r imageRow) bool { return string(r.State) == value })
		case "digest":
			tests = append(tests, func(r imageRow) bool {
				return strings.HasPrefix(r.Digest.String(), value) || strings.HasPrefix(r.Digest.Encoded(), value)
			})
		case "platform":
			p, err := stowage.ParsePlatform(value)
			if err != nil {
				return nil, usagef("--filter %q: %w", f, err)
			}
			tests = append(tests, func(r imageRow) bool {
				for _, have := range r.Platforms {
					if have.State == stowage.Complete && have.Platform == stowage.FormatPlatform(p) {
						return true
					}
				}
				return false
			})
		case "label":
			k, v, exact := strings.Cut(value, "=")
			tests = append(tests, func(r imageRow) bool {
				got, ok := r.Labels[k]
				return ok && (!exact || got == v)
			})
		default:
			return nil, usagef("--filter %q: want name, state, platform, digest or label", f)
		}
	}
	return func(r imageRow) bool {
		for _, t := range tests {
			if !t(r) {
				return false
			}
		}
		return true
	}, nil
}
