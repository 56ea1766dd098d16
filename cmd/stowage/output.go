package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// results is standard output. Lists of many rows are written in large pieces; flush writes what is
// left. It remembers the first error, so that a full disk or a reader that went away is an exit
// status other than 0, wherever the line was printed.
type results struct {
	w   io.Writer
	buf *bufio.Writer // before w
	err error
}

func newResults(w io.Writer) *results { return &results{w: w, buf: bufio.NewWriterSize(w, 64<<10)} }

func (r *results) Write(p []byte) (int, error) {
	n, err := r.buf.Write(p)
	if r.err == nil {
		r.err = err
	}
	return n, err
}

func (r *results) flush() error {
	err := r.buf.Flush()
	if r.err == nil {
		r.err = err
	}
	return err
}

// Close closes standard output itself, for what may report a failure only then.
func (r *results) Close() error {
	if err := r.flush(); err != nil {
		return err
	}
	if c, ok := r.w.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// terminal tells whether results go to a screen.
func (r *results) terminal() bool {
	f, ok := r.w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// A format is how results are printed: a table, JSON, or a Go template a row.
type format struct{ value string }

// formatFlag adds --format to a command that lists or describes.
func formatFlag(cmd *cobra.Command, def string) *format {
	f := &format{}
	cmd.Flags().StringVar(&f.value, "format", def, "table, json, or a Go template such as '{{.name}}'")
	return f
}

// table tells whether results are printed as a table.
func (f *format) table() bool { return f.value == "table" || f.value == "" }

// print writes rows as the format says. Templates see the fields by their JSON names. whole is
// what JSON prints; rows are what a table or a template goes through, one at a time.
func (f *format) print(w io.Writer, whole any, rows []any, table func(*tabwriter.Writer)) error {
	switch {
	case f.table():
		tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		table(tw)
		return tw.Flush()
	case f.value == "json":
		return printJSON(w, whole)
	}
	t, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"join": func(v []any, sep string) string {
			parts := make([]string, len(v))
			for i, p := range v {
				parts[i] = fmt.Sprint(p)
			}
			return strings.Join(parts, sep)
		},
	}).Parse(strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(f.value)) // as docker does
	if err != nil {
		return usagef("read --format: %w", err)
	}
	for _, row := range rows {
		b, err := json.Marshal(row)
		if err != nil {
			return err
		}
		var fields any
		dec := json.NewDecoder(strings.NewReader(string(b)))
		dec.UseNumber() // sizes stay whole numbers
		if err := dec.Decode(&fields); err != nil {
			return err
		}
		if err := t.Execute(w, fields); err != nil {
			return usagef("apply --format: %w", err)
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// anys turns a typed list into what templates go through.
func anys[T any](list []T) []any {
	rows := make([]any, len(list))
	for i := range list {
		rows[i] = &list[i]
	}
	return rows
}

// humanSize prints bytes as people read them, with decimal units as docker does.
func humanSize(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return strconv.FormatInt(n, 10) + "B"
	}
	v, u := float64(n)/1000, 0
	for v >= 999.5 && u < len(units)-1 {
		v /= 1000
		u++
	}
	return strconv.FormatFloat(v, 'g', 3, 64) + units[u:u+1] + "B"
}

// humanAge prints how long ago t was.
func humanAge(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(now.Sub(t), 0)
	n, unit := d/(24*time.Hour), "d"
	switch {
	case d < time.Minute:
		n, unit = d/time.Second, "s"
	case d < time.Hour:
		n, unit = d/time.Minute, "m"
	case d < 48*time.Hour:
		n, unit = d/time.Hour, "h"
	}
	return strconv.FormatInt(int64(n), 10) + unit
}

// labels prints a set of labels in a stable order.
func labels(m map[string]string) string {
	if len(m) == 0 {
		return "-"
	}
	parts := make([]string, 0, len(m))
	for _, k := range sortedKeys(m) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

// document prints one thing: as JSON, or through a template.
func (f *format) document(w io.Writer, v any) error {
	if f.table() {
		return printJSON(w, v)
	}
	return f.print(w, v, []any{v}, nil)
}
