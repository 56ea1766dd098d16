package gc_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/gc"
)

func TestExcess(t *testing.T) {
	bytes := func(n int64) gc.Watermark { return gc.Watermark{Bytes: n} }
	percent := func(p float64) gc.Watermark { return gc.Watermark{Percent: p} }
	for _, c := range []struct {
		name      string
		space     gc.Space
		high, low gc.Watermark
		want      int64
	}{
		{"no limit", gc.Space{Store: 1 << 50, Used: 99, Size: 100}, gc.Watermark{}, gc.Watermark{}, 0},
		{"below high", gc.Space{Store: 100}, bytes(100), bytes(50), 0},
		{"above high", gc.Space{Store: 101}, bytes(100), bytes(50), 51},
		{"one mark", gc.Space{Store: 101}, bytes(100), bytes(100), 1},
		{"between the marks", gc.Space{Used: 840, Size: 1000}, percent(85), percent(70), 0},
		{"above high, in percent", gc.Space{Used: 900, Size: 1000}, percent(85), percent(70), 200},
		{"others fill the disk", gc.Space{Store: 10, Used: 900, Size: 1000}, percent(85), percent(70), 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.space.Excess(c.high, c.low); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestMakeRoom(t *testing.T) {
	ago := func(name string, hours int) gc.Idle {
		return gc.Idle{Name: name, Used: time.Unix(1e9, 0).Add(-time.Duration(hours) * time.Hour)}
	}
	images := []gc.Idle{ago("new", 1), ago("older", 3), ago("oldest", 9), ago("old", 2), ago("also older", 3)}
	broken := errors.New("broken")
	for _, c := range []struct {
		name   string
		excess int64
		fails  string // while this one goes
		want   []string
		left   int64
	}{
		{name: "nothing to do"},
		{name: "as many as it takes", excess: 15, want: []string{"oldest", "also older"}},
		{name: "not enough", excess: 60, want: []string{"oldest", "also older", "older", "old", "new"}, left: 10},
		{name: "one cannot go", excess: 25, fails: "also older", want: []string{"oldest", "also older"}, left: 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			var went []string
			left, err := gc.MakeRoom(t.Context(), c.excess, images, func(_ context.Context, i gc.Idle) (int64, error) {
				went = append(went, i.Name)
				if i.Name == c.fails {
					return 0, broken
				}
				return 10, nil
			})
			if !slices.Equal(went, c.want) || left != c.left || errors.Is(err, broken) != (c.fails != "") {
				t.Errorf("went %v, %d bytes left, %v; want %v, %d", went, left, err, c.want, c.left)
			}
		})
	}
}
