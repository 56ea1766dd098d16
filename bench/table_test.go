package main

import (
	"archive/tar"
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func times(walls ...time.Duration) []sample {
	var all []sample
	for _, w := range walls {
		all = append(all, sample{wall: w, peak: 1 << 20})
	}
	return all
}

func TestTable(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name string
		row  result
		want string
		ok   bool
	}{
		{
			"quicker",
			result{ours: times(30*ms, 10*ms, 20*ms), peerName: "peer", peer: times(40*ms, 40*ms, 90*ms), ratio: 1},
			"| 20ms (10ms–30ms) | peer | 40ms (40ms–90ms) | 0.50 | ≤ 1.00 | 1 MB | 1 MB | ok |", true,
		},
		{
			"slower",
			result{ours: times(50*ms, 70*ms), peerName: "peer", peer: times(40 * ms), ratio: 1.25},
			"| 60ms (50ms–70ms) | peer | 40ms (40ms–40ms) | 1.50 | ≤ 1.25 | 1 MB | 1 MB | OVER |", false,
		},
		{"in time", result{ours: times(20 * ms), limit: 30 * ms}, "| < 30ms | 1 MB |  | ok |", true},
		{"late", result{ours: times(40 * ms), limit: 30 * ms}, "| < 30ms | 1 MB |  | OVER |", false},
		{"met", result{ours: times(ms), asked: "one HEAD", met: true}, "| one HEAD | 1 MB |  | ok |", true},
		{"missed", result{ours: times(ms), asked: "one HEAD"}, "| one HEAD | 1 MB |  | OVER |", false},
		{
			"alone",
			result{ours: times(20 * ms), peerName: "peer", ratio: 0.5, absent: true},
			"| peer | not run |  | ≤ 0.50 | 1 MB |  | ok |", true,
		},
		{
			"fat and allowed to be",
			result{ours: []sample{{wall: ms, peak: 100 << 20}}, limit: 2 * ms, memory: 150 << 20},
			"| < 2ms | 100 MB |  | ok |", true,
		},
		{"fat", result{ours: []sample{{wall: ms, peak: 100 << 20}, {wall: ms}}}, "| 100 MB |  | OVER |", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			over := printTable(&out, []result{c.row})
			if got := over == 0; got != c.ok {
				t.Errorf("ok is %v, want %v", got, c.ok)
			}
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("table is\n%s\nwant a row with %s", out.String(), c.want)
			}
		})
	}
}

// A family of the small archive brings 25 blobs for each of its images, no two of them the same.
func TestSmallImage(t *testing.T) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range 2 * smallFamily {
		if _, err := writeSmallImage(w, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	entries, names := 0, map[string]bool{}
	for r := tar.NewReader(&out); ; {
		header, err := r.Next()
		if err != nil {
			break
		}
		names[header.Name] = true
		entries++
	}
	if want := 2 * smallFamily * smallBlobs; entries != want || len(names) != want {
		t.Errorf("%d entries, %d names; want %d of both", entries, len(names), want)
	}
}

// What is made for one bench is there for the next.
func TestArchiveKept(t *testing.T) {
	b := &bench{dir: t.TempDir()}
	if err := os.MkdirAll(b.kept(), 0o755); err != nil {
		t.Fatal(err)
	}
	want := b.kept() + "/small-families.tar"
	if err := os.WriteFile(want, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := b.smallArchive(); got != want || err != nil {
		t.Errorf("archive is %s, %v; want %s", got, err, want)
	}
}
