package gc

import (
	"context"
	"slices"
	"strings"
	"time"
)

// A Watermark is how full a store may get: bytes that it takes, or percent of its filesystem that
// are in use by whomever. The zero value is no limit.
type Watermark struct {
	Bytes   int64
	Percent float64
}

// A Space is what a store and its filesystem hold, in bytes.
type Space struct {
	Store int64 // what the store takes
	Used  int64 // of the filesystem, by whomever
	Size  int64 // of the filesystem, as far as it can be used
}

// Excess tells how many bytes have to go: none below high, and above it what brings it down to
// low. Both are of one sort.
func (s Space) Excess(high, low Watermark) int64 {
	switch {
	case high.Bytes > 0 && s.Store > high.Bytes:
		return s.Store - low.Bytes
	case high.Percent > 0 && s.percent(high.Percent) < s.Used:
		return s.Used - s.percent(low.Percent)
	}
	return 0
}

// percent is a share of the filesystem.
func (s Space) percent(p float64) int64 { return int64(float64(s.Size) * p / 100) }

// An Idle image is one that may go.
type Idle struct {
	Namespace, Name string
	Used            time.Time // last
}

// MakeRoom lets images go, those first that were used longest ago, until excess bytes came free or
// none is left. Remove lets one go, and tells how many bytes that freed. MakeRoom returns how many
// bytes are still too many.
func MakeRoom(ctx context.Context, excess int64, images []Idle, remove func(context.Context, Idle) (int64, error)) (int64, error) {
	images = slices.Clone(images)
	slices.SortFunc(images, func(a, b Idle) int {
		if c := a.Used.Compare(b.Used); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, img := range images {
		if excess <= 0 {
			break
		}
		freed, err := remove(ctx, img)
		excess -= freed
		if err != nil {
			return max(excess, 0), err
		}
	}
	return max(excess, 0), nil
}
