package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"
)

// The memory that stowage may use, whatever the image's size: to move blobs, and to unpack them.
const (
	maxPeak       = 100 << 20
	maxUnpackPeak = 150 << 20
)

// A result is one row of the table.
type result struct {
	name     string
	ours     []sample
	peerName string
	peer     []sample
	absent   bool          // the peer is not here
	ratio    float64       // most that ours may take of peer's time; 0: not asked
	limit    time.Duration // most that ours may take; 0: not asked
	memory   int64         // most that ours may use; 0: maxPeak
	asked    string        // another demand, met or not
	met      bool
}

// printTable prints the rows as Markdown and says how many are over what is asked.
func printTable(w io.Writer, results []result) (over int) {
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	line("| case | stowage | beside | its time | ratio | asked | peak memory | its peak | |")
	line("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, r := range results {
		ok := "ok"
		if !r.ok() {
			ok = "OVER"
			over++
		}
		peer, ratio, peerPeak := "", "", ""
		switch {
		case len(r.peer) > 0:
			peer, ratio = spread(r.peer), fmt.Sprintf("%.2f", r.times())
			peerPeak = fmt.Sprintf("%d MB", peak(r.peer)>>20)
		case r.absent:
			peer = "not run"
		}
		line("| %s | %s | %s | %s | %s | %s | %d MB | %s | %s |",
			r.name, spread(r.ours), r.peerName, peer, ratio, r.demand(), peak(r.ours)>>20, peerPeak, ok)
	}
	return over
}

func (r result) times() float64 {
	return median(r.ours).Seconds() / median(r.peer).Seconds()
}

func peak(samples []sample) int64 {
	return slices.MaxFunc(samples, func(a, b sample) int { return cmp.Compare(a.peak, b.peak) }).peak
}

func (r result) ok() bool {
	return (r.ratio == 0 || r.absent || r.times() <= r.ratio) &&
		(r.limit == 0 || median(r.ours) <= r.limit) &&
		(r.asked == "" || r.met) && peak(r.ours) < cmp.Or(r.memory, maxPeak)
}

func (r result) demand() string {
	switch {
	case r.ratio > 0:
		return fmt.Sprintf("≤ %.2f", r.ratio)
	case r.limit > 0:
		return "< " + r.limit.String()
	default:
		return r.asked
	}
}

func walls(samples []sample) []time.Duration {
	found := make([]time.Duration, len(samples))
	for i, s := range samples {
		found[i] = s.wall
	}
	slices.Sort(found)
	return found
}

func median(samples []sample) time.Duration {
	sorted := walls(samples)
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// spread is the median, and the least and most around it.
func spread(samples []sample) string {
	sorted := walls(samples)
	return fmt.Sprintf("%s (%s–%s)", short(median(samples)), short(sorted[0]), short(sorted[len(sorted)-1]))
}

func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
