package transfer_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/progress"
	"github.com/stowage/stowage/internal/ref"
	"github.com/stowage/stowage/internal/transfer"
)

// A crowd is a registry of several hosts, the first of which give wrong bytes for layers.
type crowd struct {
	fakeRegistry
	hosts, wrong int

	mu     sync.Mutex
	blamed map[image.Digest]int // how many hosts are, of each blob
	reads  int
}

type blamable struct {
	io.Reader
	c    *crowd
	d    image.Digest
	host int
}

func (b *blamable) Close() error { return nil }

func (b *blamable) Blame(err error) (error, bool) {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.c.blamed[b.d] = b.host + 1
	return fmt.Errorf("host %d: %w", b.host, err), b.host+1 < b.c.hosts
}

func (c *crowd) Blob(ctx context.Context, r ref.Reference, d image.Descriptor, offset int64, onFault func(error)) (io.ReadCloser, error) {
	body, err := c.fakeRegistry.Blob(ctx, r, d, offset, onFault)
	if err != nil || d.Size < 100_000 {
		return body, err
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	host := c.blamed[d.Digest]
	if host < c.wrong {
		b[len(b)/2] ^= 1
	}
	return &blamable{bytes.NewReader(b), c, d.Digest, host}, nil
}

// Wrong bytes are fetched again from the next host, and the next, until they are right or nobody is
// left to ask.
func TestWrongBytesOfSome(t *testing.T) {
	img := build(t, 400_000)
	for _, tc := range []struct {
		hosts, wrong, reads int
		right               bool
	}{
		{hosts: 3, wrong: 0, reads: 1, right: true},
		{hosts: 3, wrong: 2, reads: 3, right: true},
		{hosts: 3, wrong: 3, reads: 3},
	} {
		s := fresh(t)
		reg := &crowd{fakeRegistry: fakeRegistry{img: img}, hosts: tc.hosts, wrong: tc.wrong, blamed: map[image.Digest]int{}}
		var told []string
		sink := progress.Serial(func(e progress.Event) {
			if e.Kind == progress.Retrying {
				told = append(told, e.Message)
			}
		})
		_, err := transfer.Pull(t.Context(), s, reg, parse(t, "example.com/app:1"), transfer.PullOptions{Progress: sink})
		if (err == nil) != tc.right || err != nil && (!errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "host 2: ")) {
			t.Errorf("%d of %d wrong: got %v", tc.wrong, tc.hosts, err)
		}
		if reg.reads != tc.reads {
			t.Errorf("%d of %d wrong: read %d times, want %d", tc.wrong, tc.hosts, reg.reads, tc.reads)
		}
		for i, s := range told {
			if want := fmt.Sprintf("host %d: ", i); !strings.HasPrefix(s, want) {
				t.Errorf("told %q, want it to begin with %q", s, want)
			}
		}
		if len(told) != tc.reads-1 {
			t.Errorf("told of %d tries, want %d", len(told), tc.reads-1)
		}
		if tc.right && !mustBeWhole(t, s, "after the pull") {
			t.Error("not complete")
		}
	}
}

// Many small layers are fetched side by side: what counts is how long an answer takes. Whoever says
// how many to fetch at once gets no more.
func TestSmallBlobsTogether(t *testing.T) {
	sizes := make([]int64, 40)
	for i := range sizes {
		sizes[i] = 1000
	}
	img := build(t, sizes...)
	for streams, want := range map[int]time.Duration{0: 3 * time.Second, 8: 5 * time.Second} {
		s := fresh(t)
		synctest.Test(t, func(t *testing.T) {
			reg := &fakeRegistry{img: img, hook: func(_ image.Descriptor, _ int64, body io.Reader) (io.Reader, error) {
				time.Sleep(time.Second)
				return body, nil
			}}
			begun := time.Now()
			if _, err := transfer.Pull(t.Context(), s, reg, parse(t, "example.com/app:1"), transfer.PullOptions{Streams: streams}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun).Truncate(time.Second); took > want+time.Second {
				t.Errorf("%d streams: took %s, want %s for the layers and one for the config", streams, took, want)
			}
		})
	}
}

// How far somebody else has come with a blob can be seen by those who wait for it. They go on with it
// where he gives up.
func TestWatch(t *testing.T) {
	img := build(t, 400_000)
	layer := img.Manifest().Layers[0]
	blob, _ := img.Blob(layer.Digest)
	body, err := blob.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := layer.Size / 2
	for _, tc := range []struct {
		name string
		end  func(s transfer.Store, in content.Ingest) error
		want []progress.Event // of the layer, without what it is
	}{
		{"done", func(s transfer.Store, in content.Ingest) error {
			if _, err := in.WriteAt(body[half:], half); err != nil {
				return err
			}
			time.Sleep(time.Second)
			return s.Content.Commit(t.Context(), in)
		}, []progress.Event{{Kind: progress.Waiting}, {Kind: progress.Advanced, Offset: half}, {Kind: progress.Advanced, Offset: layer.Size}, {Kind: progress.Reused, Offset: layer.Size}}},
		{"given up", func(_ transfer.Store, in content.Ingest) error {
			return in.Close()
		}, []progress.Event{{Kind: progress.Waiting}, {Kind: progress.Advanced, Offset: half}, {Kind: progress.Started, Offset: half}, {Kind: progress.Done, Offset: layer.Size}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := fresh(t)
			synctest.Test(t, func(t *testing.T) {
				in, err := s.Content.Begin(t.Context(), layer.Digest.String(), content.Want{Digest: layer.Digest, Size: layer.Size})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := in.WriteAt(body[:half], 0); err != nil {
					t.Fatal(err)
				}
				var got []progress.Event
				sink := progress.Serial(func(e progress.Event) {
					if e.Digest == layer.Digest.String() {
						got = append(got, progress.Event{Kind: e.Kind, Offset: e.Offset})
					}
				})
				done := make(chan error, 1)
				go func() {
					_, err := transfer.Pull(t.Context(), s, &fakeRegistry{img: img}, parse(t, "example.com/app:1"), transfer.PullOptions{Progress: sink})
					done <- err
				}()
				time.Sleep(time.Minute)
				if err := tc.end(s, in); err != nil {
					t.Error(err)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
			})
		})
	}
}
