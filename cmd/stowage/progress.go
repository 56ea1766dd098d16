package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/stowage/stowage"
)

// A drawer shows progress on standard error. Its sink may be called by several goroutines;
// wait returns when all is drawn.
type drawer struct {
	sink stowage.ProgressSink
	wait func()
}

// draw makes the drawer for --progress.
func (a *app) draw() (drawer, error) {
	how := a.progress
	if how == "auto" {
		how = "plain"
		if f, ok := a.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			how = "bars"
		}
	}
	switch how {
	case "none":
		return drawer{sink: stowage.SerialProgress(warnings(a.err)), wait: func() {}}, nil
	case "plain":
		return drawer{sink: stowage.SerialProgress(plain(a.err)), wait: func() {}}, nil
	case "json":
		enc := json.NewEncoder(a.err)
		return drawer{sink: stowage.SerialProgress(func(e stowage.ProgressEvent) {
			// Nobody is told if standard error is gone; the work goes on.
			_ = enc.Encode(e)
		}), wait: func() {}}, nil
	case "bars":
		b := newBars(a.err)
		return drawer{sink: stowage.SerialProgress(b.event), wait: b.wait}, nil
	}
	return drawer{}, usagef("--progress %q: want auto, bars, plain, json or none", a.progress)
}

// warnings prints what somebody should know though he asked for no progress.
func warnings(w io.Writer) func(stowage.ProgressEvent) {
	return func(e stowage.ProgressEvent) {
		switch e.Kind {
		case stowage.Fetched:
			fmt.Fprintf(w, "fetched %s from %s\n", e.Digest, e.Message)
		case stowage.Warning:
			fmt.Fprintf(w, "warning: %s\n", e.Message)
		}
	}
}

// plain prints a line for what a log should hold: what is begun, what is done, what went wrong.
func plain(w io.Writer) func(stowage.ProgressEvent) {
	last := map[string]time.Time{}
	return func(e stowage.ProgressEvent) {
		switch e.Kind {
		case stowage.Resolving:
			fmt.Fprintf(w, "resolving %s\n", e.Name)
		case stowage.Examining:
			fmt.Fprintf(w, "looking for %s\n", e.What)
		case stowage.Resolved:
			fmt.Fprintf(w, "resolved %s to %s\n", e.Name, e.Digest)
		case stowage.Planned:
			fmt.Fprintf(w, "%d blobs, %s to go\n", e.Count, humanSize(e.Total))
		case stowage.Started:
			last[e.Digest] = time.Now()
			if e.Offset > 0 {
				fmt.Fprintf(w, "%s %s goes on from %s of %s\n", short(e.Digest), e.What, humanSize(e.Offset), humanSize(e.Total))
			}
		case stowage.Advanced:
			// Long transfers say every five seconds that they live.
			if time.Since(last[e.Digest]) >= 5*time.Second {
				last[e.Digest] = time.Now()
				fmt.Fprintf(w, "%s %s of %s\n", subject(e), humanSize(e.Offset), humanSize(e.Total))
			}
		case stowage.Done:
			fmt.Fprintf(w, "%s done, %s\n", subject(e), humanSize(e.Total))
		case stowage.Reused:
			fmt.Fprintf(w, "%s %s is here already\n", short(e.Digest), e.What)
		case stowage.Fetched:
			fmt.Fprintf(w, "fetched %s from %s\n", e.Digest, e.Message)
		case stowage.Existing:
			fmt.Fprintf(w, "%s %s is there already\n", short(e.Digest), e.What)
		case stowage.Mounted:
			fmt.Fprintf(w, "%s %s is taken from %s\n", short(e.Digest), e.What, e.Message)
		case stowage.Waiting:
			last[e.Digest] = time.Now()
			fmt.Fprintf(w, "%s %s is being fetched by another process; waiting\n", short(e.Digest), e.What)
		case stowage.Retrying:
			fmt.Fprintf(w, "%s retrying: %s\n", short(e.Digest), e.Message)
		case stowage.Warning:
			fmt.Fprintf(w, "warning: %s\n", e.Message)
		}
	}
}

// bars draws one bar a blob on a terminal.
type bars struct {
	pool *mpb.Progress
	blob map[string]*bar // nil: somebody else fetches it, and has not come far enough for a bar
	w    io.Writer
}

type bar struct {
	*mpb.Bar
	total int64
}

func newBars(w io.Writer) *bars {
	return &bars{pool: mpb.New(mpb.WithOutput(w), mpb.WithWidth(48), mpb.WithRefreshRate(120*time.Millisecond)), blob: map[string]*bar{}, w: w}
}

func (b *bars) event(e stowage.ProgressEvent) {
	switch e.Kind {
	case stowage.Started:
		if b.blob[e.Digest] == nil {
			b.blob[e.Digest] = b.add(e)
		}
	case stowage.Advanced:
		p, known := b.blob[e.Digest]
		if p == nil && known { // somebody else is fetching it
			p = b.add(e)
			b.blob[e.Digest] = p
		}
		if p != nil {
			p.SetCurrent(e.Offset)
		}
	case stowage.Done:
		b.end(e)
	case stowage.Reused:
		if b.end(e) {
			return
		}
		b.say("%s %-8s  is here already\n", short(e.Digest), e.What)
	case stowage.Fetched:
		b.say("fetched %s from %s\n", e.Digest, e.Message)
	case stowage.Existing:
		b.say("%s %-8s  is there already\n", short(e.Digest), e.What)
	case stowage.Mounted:
		b.say("%s %-8s  is taken from %s\n", short(e.Digest), e.What, e.Message)
	case stowage.Waiting:
		b.blob[e.Digest] = nil
		b.say("%s %-8s  is being fetched by another process; waiting\n", short(e.Digest), e.What)
	case stowage.Retrying:
		b.say("%s retrying: %s\n", short(e.Digest), e.Message)
	case stowage.Warning:
		b.say("warning: %s\n", e.Message)
	}
}

// add draws a bar for a blob.
func (b *bars) add(e stowage.ProgressEvent) *bar {
	mb := b.pool.AddBar(e.Total,
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("%s %-8s ", short(e.Digest), e.What))),
		mpb.AppendDecorators(decor.CountersKiloByte("% .1f / % .1f "), decor.OnComplete(decor.AverageSpeed(decor.SizeB1000(0), "% .1f"), "done")))
	mb.SetCurrent(e.Offset)
	return &bar{mb, e.Total}
}

// end fills the bar of a blob, if it has one.
func (b *bars) end(e stowage.ProgressEvent) bool {
	p := b.blob[e.Digest]
	if p != nil {
		p.SetCurrent(p.total)
		p.EnableTriggerComplete()
	}
	return p != nil
}

// say prints a line above the bars.
func (b *bars) say(format string, args ...any) { fmt.Fprintf(b.pool, format, args...) }

func (b *bars) wait() {
	for _, p := range b.blob {
		if p != nil && !p.Completed() {
			p.Abort(false)
		}
	}
	b.pool.Wait()
}

// subject is what an event is about: a blob, or many of them.
func subject(e stowage.ProgressEvent) string {
	return strings.TrimSpace(short(e.Digest) + " " + e.What)
}

// short is enough of a digest to tell blobs apart.
func short(d string) string {
	const algorithm, digits = len("sha256:"), 12
	if len(d) >= algorithm+digits {
		return d[algorithm : algorithm+digits]
	}
	return d
}
