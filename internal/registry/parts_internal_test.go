package registry

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
)

// More connections are made while they bring more, and no longer.
func TestWidth(t *testing.T) {
	const mega = 1_000_000
	for _, tc := range []struct {
		name  string
		bring func(width int) float64 // bytes a second of so many connections
		want  []int                   // the widths, in turn
	}{
		{"each connection is slow", func(n int) float64 { return float64(n) * 20 * mega }, []int{1, 2, 4, 6}},
		{"the line is full with one", func(int) float64 { return 20 * mega }, []int{1, 2}},
		{"the line is full with three", func(n int) float64 { return float64(min(n, 3)) * 20 * mega }, []int{1, 2, 4, 6, 3}},
		{"more bring less", func(n int) float64 { return 20 * mega / float64(n) }, []int{1, 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &parts{width: 1}
			widths := []int{1}
			for range 50 {
				before := p.width
				p.judge(tc.bring(before), before)
				if p.width != before {
					widths = append(widths, p.width)
				}
			}
			if !slices.Equal(widths, tc.want) {
				t.Errorf("got widths %v, want %v", widths, tc.want)
			}
		})
	}
	p := &parts{width: 4, best: mega}
	if p.judge(100*mega, 2); p.width != 4 {
		t.Error("parts of an earlier width tell of the present one")
	}
}

// A pacedZeros is a file of zeros that is read at so many bytes a second.
type pacedZeros struct{ size, at, rate int64 }

func (z *pacedZeros) Read(p []byte) (int, error) {
	n := min(int64(len(p)), z.size-z.at)
	if n == 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	z.at += n
	time.Sleep(time.Duration(n) * time.Second / time.Duration(z.rate))
	return int(n), nil
}

func (z *pacedZeros) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		offset += z.size
	}
	z.at = offset
	return offset, nil
}

// far is a server with one blob, 50 ms away, whose connections bring so many bytes a second each.
func far(size, rate int64) *server {
	return &server{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(50 * time.Millisecond)
		http.ServeContent(w, r, "", time.Time{}, &pacedZeros{size: size, rate: rate})
	})}
}

// zeros describes the blob that far has; nobody looks at its digest.
func zeros(size int64) image.Descriptor {
	return image.Descriptor{MediaType: image.OCILayer, Digest: digest.FromString("zeros"), Size: size}
}

// Over connections of 20 MB a second, 50 ms away, a large blob comes at least three times as fast as
// over one. Where one connection is fast, it stays alone.
func TestPartsAreFaster(t *testing.T) {
	const size = 1_000_000_000
	for rate, least := range map[int64]float64{20_000_000: 3, 2 * fast: 0.95} {
		synctest.Test(t, func(t *testing.T) {
			s := far(size, rate)
			c, r := connect(t, Options{}, s)
			begun := time.Now()
			body, err := c.Blob(t.Context(), r, zeros(size), 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, body)
			if err := errors.Join(err, body.Close()); n != size || err != nil {
				t.Errorf("got %d bytes, %v", n, err)
			}
			one := 50*time.Millisecond + size*time.Second/time.Duration(rate)
			if ratio := one.Seconds() / time.Since(begun).Seconds(); ratio < least {
				t.Errorf("%d bytes a second: %.2f times as fast as one connection, want %.2f", rate, ratio, least)
			} else {
				t.Logf("%d bytes a second: %.2f times as fast as one connection, %d requests", rate, ratio, s.asked())
			}
			if rate > fast && s.dials != 1 {
				t.Errorf("%d connections, where one is fast", s.dials)
			}
			if len(c.room) > 0 {
				t.Errorf("%d parts are still counted as in memory", len(c.room))
			}
		})
	}
}

// Wherever a reader is closed, it gives back the room of its parts.
func TestPartsGiveBackRoom(t *testing.T) {
	const size = 100_000_000
	for at := int64(0); at <= size; at += 7_000_000 {
		synctest.Test(t, func(t *testing.T) {
			c, r := connect(t, Options{}, far(size, 50_000_000))
			body, err := c.Blob(t.Context(), r, zeros(size), 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, body, at); err != nil {
				t.Error(err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
			if len(c.room) > 0 {
				t.Errorf("closed at %d: %d parts are still counted as in memory", at, len(c.room))
			}
			time.Sleep(time.Second) // the server finds out that nobody listens
		})
	}
}
