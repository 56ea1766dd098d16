package config

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestGC(t *testing.T) {
	const hour, day = Duration(time.Hour), Duration(24 * time.Hour)
	for _, c := range []struct {
		name, text string
		want       GC
		problem    string // in the error
	}{
		{name: "nothing said", want: GC{Grace: day, Schedule: hour}},
		{
			name: "bytes", text: "on_removal = true\nhigh = '20GB'\nlow = '1.5GiB'\ngrace = '90m'",
			want: GC{OnRemoval: true, High: Watermark{Bytes: 20e9}, Low: Watermark{Bytes: 3 << 29}, Grace: Duration(90 * time.Minute), Schedule: hour},
		},
		{name: "percent with a space", text: "high = '85%'\nlow = '70.5 %'", problem: "want more than 0%"},
		{name: "percent", text: "high = '85%'\nlow = '70.5%'", want: GC{High: Watermark{Percent: 85}, Low: Watermark{Percent: 70.5}, Grace: day, Schedule: hour}},
		{name: "high alone", text: "high = '4096'\ngrace = '0s'\nschedule = '0s'", want: GC{High: Watermark{Bytes: 4096}, Low: Watermark{Bytes: 4096}}},
		{name: "low alone", text: "low = '5G'", problem: "of no use without high"},
		{name: "mixed", text: "high = '50%'\nlow = '5G'", problem: "both in bytes, or both in percent"},
		{name: "upside down", text: "high = '5G'\nlow = '6G'", problem: "low is above high"},
		{name: "more than all", text: "high = '101%'", problem: "at most 100%"},
		{name: "no number", text: "high = '%'", problem: "at most 100%"},
		{name: "not a number", text: "high = 'NaN%'", problem: "at most 100%"},
		{name: "no size", text: "high = 'much'", problem: "want bytes such as"},
		{name: "no unit", text: "high = '5iB'", problem: "want bytes such as"},
		{name: "nothing", text: "high = '0'", problem: "want bytes such as"},
		{name: "too much", text: "high = '99999999T'", problem: "want bytes such as"},
		{name: "no time", text: "grace = 'tomorrow'", problem: "want a time such as"},
		{name: "a schedule that was", text: "schedule = '-1h'", problem: "schedule -1h0m0s is below zero"},
		{name: "time that was", text: "grace = '-1h'", problem: "below zero"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Load(write(t, "[gc]\n"+c.text), env("HOME", "/home/u"), 0)
			if c.problem != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.problem) {
					t.Errorf("got %v, want an error with %q", err, c.problem)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.GC != c.want {
				t.Errorf("got %+v, want %+v", got.GC, c.want)
			}
		})
	}
}
