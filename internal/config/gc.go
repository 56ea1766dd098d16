package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// GC is the section that says when what is not needed goes.
type GC struct {
	// OnRemoval collects what the removal of a name leaves before it returns.
	OnRemoval bool `toml:"on_removal"`
	// DiscardUnpacked gives up the packed layers of an image after a pull or an import has unpacked it,
	// if they can be fetched again.
	DiscardUnpacked bool `toml:"discard_unpacked"`
	// High is from where on images go after a pull or an import, those first that were used
	// longest ago, until Low is reached. Zero: never. Low is at most High, and like it.
	High Watermark `toml:"high"`
	Low  Watermark `toml:"low"`
	// Grace is how long removed names are remembered, and what interrupted pulls have left is kept.
	Grace Duration `toml:"grace"`
	// Schedule is the time from one collection of the daemon to the next; 0: never.
	Schedule Duration `toml:"schedule"`
}

// defaultGC is what nothing was said of.
var defaultGC = GC{Grace: Duration(24 * time.Hour), Schedule: Duration(time.Hour)}

// check finds what cannot be meant, and fills in what follows.
func (g *GC) check() error {
	switch {
	case g.Low == Watermark{}:
		g.Low = g.High
	case g.High == Watermark{}:
		return fmt.Errorf("low is of no use without high: %w", errdefs.ErrInvalidArgument)
	case (g.Low.Bytes > 0) != (g.High.Bytes > 0):
		return fmt.Errorf("high and low: want both in bytes, or both in percent: %w", errdefs.ErrInvalidArgument)
	case g.Low.Bytes > g.High.Bytes || g.Low.Percent > g.High.Percent:
		return fmt.Errorf("low is above high: %w", errdefs.ErrInvalidArgument)
	}
	if g.Schedule < 0 {
		return fmt.Errorf("schedule %s is below zero: %w", time.Duration(g.Schedule), errdefs.ErrInvalidArgument)
	}
	if g.Grace < 0 {
		return fmt.Errorf("grace %s is below zero: %w", time.Duration(g.Grace), errdefs.ErrInvalidArgument)
	}
	return nil
}

// A Watermark is how full a store may get: bytes that it takes, or percent of its filesystem that
// are in use by whomever. One of them is zero.
type Watermark struct {
	Bytes   int64
	Percent float64
}

// UnmarshalText reads a number of bytes such as 20GB, 20G or 20GiB, or percent such as 85%.
func (w *Watermark) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	if digits, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.ParseFloat(digits, 64)
		if err != nil || !(n > 0 && n <= 100) {
			return fmt.Errorf("%q: want more than 0%% and at most 100%%: %w", s, errdefs.ErrInvalidArgument)
		}
		*w = Watermark{Percent: n}
		return nil
	}
	n, err := parseSize(s)
	if err != nil {
		return err
	}
	*w = Watermark{Bytes: n}
	return nil
}

// MarshalText writes what UnmarshalText reads, and nothing for none.
func (w Watermark) MarshalText() ([]byte, error) {
	switch {
	case w.Percent > 0:
		return []byte(strconv.FormatFloat(w.Percent, 'g', -1, 64) + "%"), nil
	case w.Bytes > 0:
		return strconv.AppendInt(nil, w.Bytes, 10), nil
	}
	return nil, nil
}

// parseSize reads a number of bytes, of at least one, with a decimal or a binary unit.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "kKMGTiB")
	unit := strings.TrimSuffix(s[len(digits):], "B")
	base := 1000.0
	if short, ok := strings.CutSuffix(unit, "i"); ok && short != "" {
		unit, base = short, 1024
	}
	power, ok := map[string]float64{"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}[unit]
	n, err := strconv.ParseFloat(digits, 64)
	n *= math.Pow(base, power)
	if err != nil || !ok || !(n >= 1 && n < math.MaxInt64) {
		return 0, fmt.Errorf("%q: want bytes such as 20GB or 20GiB, or percent such as 85%%: %w", s, errdefs.ErrInvalidArgument)
	}
	return int64(n), nil
}

// A Duration is written as in Go, such as 24h or 90m.
type Duration time.Duration

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads one.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q: want a time such as 24h or 90m: %w", text, errdefs.ErrInvalidArgument)
	}
	*d = Duration(v)
	return nil
}
