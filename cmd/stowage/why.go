package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stowage/stowage"
)

// whyPaths is how many paths are shown unless more are asked for: the layers of a base image have one
// for each image above it.
const whyPaths = 10

func whyCommand(a *app) *cobra.Command {
	var limit uint
	cmd := &cobra.Command{
		Use:   "why DIGEST|REF",
		Short: "What keeps a blob, a snapshot or an image, and what its removal would free",
		Long: `Says what keeps a blob or a snapshot from collection: a line for each image, lease, label or
running operation that does, with all that is in between. Of an image it says what it is
needed for besides its name: mounts, leases, pins, running operations. Then it says what
would come free if the images that were listed were removed.

A digest may be given by its beginning. What could be both is the name of an image first.`,
		Example: "  stowage why sha256:4fe2ade4980c\n  stowage why alpine\n  stowage why --format json alpine | jq .frees.bytes",
		Args:    cobra.ExactArgs(1),
	}
	out := formatFlag(cmd, "table")
	cmd.Flags().UintVar(&limit, "limit", whyPaths, "how many lines at most; 0: all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.local()
		if err != nil {
			return err
		}
		r, err := s.Why(cmd.Context(), args[0], int(limit))
		if err != nil {
			return err
		}
		return out.print(a.out, r, []any{r}, func(w *tabwriter.Writer) { printWhy(w, r, s.Namespace()) })
	}
	return cmd
}

func printWhy(w *tabwriter.Writer, r *stowage.WhyReport, ns string) {
	for _, path := range r.Paths {
		texts := make([]string, 0, len(path)+1)
		if by := path[0].By; path[0].Kind != "image" || by != "image" {
			texts = append(texts, by)
		}
		for i, step := range path {
			if i == 0 {
				step.By = "" // which was told
			}
			texts = append(texts, stepText(step, ns, i == len(path)-1))
		}
		fmt.Fprintln(w, strings.Join(texts, " → "))
	}
	if more := r.Roots - len(r.Paths); more > 0 {
		fmt.Fprintf(w, "and %d more; --limit 0 lists all\n", more)
	}
	for _, u := range r.Uses {
		fmt.Fprintln(w, u)
	}
	f := r.Frees
	switch {
	case r.Missing:
		fmt.Fprintln(w, "it is not here; `stowage image check` says whether that is damage")
	case r.Roots == 0:
		fmt.Fprintf(w, "nothing keeps it: `stowage gc` would free its %s\n", humanSize(r.Size))
	case f == nil:
		fmt.Fprintf(w, "it takes %s itself, which come free when nothing of this keeps it any more\n", humanSize(r.Size))
	default:
		what := "it"
		if r.Subject.Kind != "image" {
			what = "image " + f.Images[0]
		}
		if len(f.Images) > 1 {
			what = fmt.Sprintf("these %d images", len(f.Images))
		}
		fmt.Fprintf(w, "removing %s would free %s: %d bytes in %d blobs", what, humanSize(f.Bytes+f.Unpacked), f.Bytes, f.Blobs)
		if f.Snapshots > 0 {
			fmt.Fprintf(w, ", %d bytes in %d snapshots", f.Unpacked, f.Snapshots)
		}
		fmt.Fprintln(w)
	}
}

// stepText shows one thing on a path. The last one is what was asked about, of which only its place is
// news.
func stepText(s stowage.WhyStep, ns string, last bool) string {
	var text string
	switch s.Kind {
	case "image":
		text = "image " + s.Image
	case "snapshot":
		text = s.Snapshotter + " snapshot " + s.Key
	case "blob":
		switch {
		case s.By == "":
			text = "blob " + s.Digest.String()
		case last:
			text = s.By
		default:
			text = s.By + " " + s.Digest.String()
		}
	default:
		if text = s.Kind + " " + s.Digest.String(); s.By == "subject" {
			text = "referrer " + s.Digest.String()
		}
		if s.Platform != "" {
			text += " (" + s.Platform + ")"
		}
	}
	if s.Kind == "image" && s.Namespace != ns {
		text += " (namespace " + s.Namespace + ")"
	}
	return text
}
