// Package contenttest is the suite that every [content.Store] passes.
package contenttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
)

// A Limited store keeps less than the contract says, because what it stands on does. The suite holds
// it to the rest.
type Limited struct {
	content.Store
	Algorithms []digest.Algorithm // the weakest first; none: all
	MaxKey     int                // bytes; 0: [content.MaxKey]
}

func algorithms(s content.Store) []digest.Algorithm {
	if l, ok := s.(Limited); ok && len(l.Algorithms) > 0 {
		return l.Algorithms
	}
	return []digest.Algorithm{digest.SHA256, digest.SHA512}
}

func maxKey(s content.Store) int {
	if l, ok := s.(Limited); ok && l.MaxKey > 0 {
		return l.MaxKey
	}
	return content.MaxKey
}

// strongest is the last of [algorithms].
func strongest(s content.Store) digest.Algorithm {
	list := algorithms(s)
	return list[len(list)-1]
}

// Run checks that a store keeps the contract of [content.Store]. Open is called once per check
// and returns an empty store; it registers its own cleanup with t.
func Run(t *testing.T, open func(t *testing.T) content.Store) {
	for _, c := range []struct {
		name  string
		check func(t *testing.T, s content.Store)
	}{
		{"commit makes a blob", commitMakesBlob},
		{"algorithms", everyAlgorithm},
		{"any digest", anyDigest},
		{"empty blob", emptyBlob},
		{"put", put},
		{"delete", deleteBlob},
		{"quarantine", quarantine},
		{"blobs", listBlobs},
		{"resume", resume},
		{"resume whole", resumeWhole},
		{"other want starts over", otherWant},
		{"close without bytes", closeWithoutBytes},
		{"reset", reset},
		{"write elsewhere", writeElsewhere},
		{"too long", tooLong},
		{"too short", tooShort},
		{"wrong bytes", wrongBytes},
		{"others are committed", othersCommitted},
		{"same blob twice", sameBlobTwice},
		{"ended", ended},
		{"one writer", oneWriter},
		{"waiter finds the blob", waiterFindsBlob},
		{"waiter takes over", waiterTakesOver},
		{"waiter gives up", waiterGivesUp},
		{"many waiters", manyWaiters},
		{"ingests", listIngests},
		{"abort", abort},
		{"invalid arguments", invalidArguments},
		{"cancelled commit", cancelledCommit},
		{"large blob", largeBlob},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, open(t)) })
	}
}

func commitMakesBlob(t *testing.T, s content.Store) {
	p := Bytes(1, 1000)
	d := digest.FromBytes(p)
	in := begin(t, s, "k", content.Want{Digest: d, Size: 1000})
	if in.Key() != "k" || in.Want().Digest != d || in.Want().Size != 1000 || in.Offset() != 0 {
		t.Errorf("a new ingest: got %s, %v, %d", in.Key(), in.Want(), in.Offset())
	}
	for at := 0; at < len(p); at += 100 {
		write(t, in, p[at:at+100])
	}
	if in.Offset() != 1000 || in.Digest() != d {
		t.Errorf("a whole ingest: got %d, %s, want %d, %s", in.Offset(), in.Digest(), 1000, d)
	}
	missing(t, s, d)
	must(t, s.Commit(t.Context(), in))
	holds(t, s, d, p)
	info, err := s.Info(t.Context(), d)
	must(t, err)
	if age := time.Since(info.CreatedAt); info.Digest != d || info.Size != 1000 || age < -time.Minute || age > time.Minute {
		t.Errorf("Info: got %v", info)
	}
	kind(t, "begin what is stored", beginErr(t, s, "k", content.Want{Digest: d, Size: 1000}), errdefs.ErrAlreadyExists)
	kind(t, "begin it by another key", beginErr(t, s, "other", content.Want{Digest: d, Size: 1000}), errdefs.ErrAlreadyExists)
	if list := ingests(t, s); len(list) != 0 {
		t.Errorf("ingests after commit: got %v, want none", list)
	}
}

func everyAlgorithm(t *testing.T, s content.Store) {
	p := Bytes(2, 70000)
	for _, a := range algorithms(s) {
		d := a.FromBytes(p)
		must(t, content.Put(t.Context(), s, d, p))
		holds(t, s, d, p)
	}
}

func anyDigest(t *testing.T, s content.Store) {
	p := Bytes(3, 5000)
	in := begin(t, s, "k", content.Want{Size: -1})
	write(t, in, p)
	must(t, s.Commit(t.Context(), in))
	holds(t, s, digest.FromBytes(p), p)
}

func emptyBlob(t *testing.T, s content.Store) {
	d := digest.FromBytes(nil)
	in := begin(t, s, "k", content.Want{Digest: d})
	write(t, in, nil)
	must(t, s.Commit(t.Context(), in))
	holds(t, s, d, nil)
}

func put(t *testing.T, s content.Store) {
	p := Bytes(4, 3000)
	d := digest.FromBytes(p)
	in := begin(t, s, d.String(), content.Want{Digest: d, Size: 3000})
	write(t, in, []byte("what another left"))
	must(t, in.Close())
	must(t, content.Put(t.Context(), s, d, p))
	must(t, content.Put(t.Context(), s, d, p))
	holds(t, s, d, p)
	wrong := digest.FromString("other")
	kind(t, "put under another digest", content.Put(t.Context(), s, wrong, p), errdefs.ErrDataLoss)
	missing(t, s, wrong)
}

func deleteBlob(t *testing.T, s content.Store) {
	p := Bytes(5, 3000)
	d := digest.FromBytes(p)
	must(t, content.Put(t.Context(), s, d, p))
	r, err := s.Open(t.Context(), d)
	must(t, err)
	must(t, s.Delete(t.Context(), d))
	got := make([]byte, 3000)
	if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, p) {
		t.Errorf("an open reader after Delete: %v, bytes are the same: %v", err, bytes.Equal(got, p))
	}
	must(t, r.Close())
	missing(t, s, d)
	kind(t, "delete twice", s.Delete(t.Context(), d), errdefs.ErrNotFound)
	must(t, content.Put(t.Context(), s, d, p))
	holds(t, s, d, p)
}

func quarantine(t *testing.T, s content.Store) {
	p := Bytes(5, 3000)
	d := digest.FromBytes(p)
	put := func() {
		t.Helper()
		must(t, content.Put(t.Context(), s, d, p))
		holds(t, s, d, p)
	}
	met := map[string]bool{}
	for range 3 { // the same blob may go bad again
		put()
		r, err := s.Open(t.Context(), d)
		must(t, err)
		name, err := s.Quarantine(t.Context(), d)
		must(t, err)
		if name == "" || met[name] {
			t.Errorf("it is in %q, where one is already", name)
		}
		met[name] = true
		got := make([]byte, 3000)
		if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, p) {
			t.Errorf("an open reader after Quarantine: %v, bytes are the same: %v", err, bytes.Equal(got, p))
		}
		must(t, r.Close())
		missing(t, s, d)
		for info, err := range s.Blobs(t.Context()) {
			must(t, err)
			t.Errorf("%s is still listed", info.Digest)
		}
	}
	_, err := s.Quarantine(t.Context(), d)
	kind(t, "quarantine what is not there", err, errdefs.ErrNotFound)
	_, err = s.Quarantine(t.Context(), "sha256:../../x")
	kind(t, "quarantine what is no digest", err, errdefs.ErrInvalidArgument)
	put()
}

func listBlobs(t *testing.T, s content.Store) {
	want := map[digest.Digest]int64{}
	for i := range 5 {
		for _, a := range algorithms(s) {
			p := Bytes(uint64(i), 10+i)
			must(t, content.Put(t.Context(), s, a.FromBytes(p), p))
			want[a.FromBytes(p)] = int64(len(p))
		}
	}
	n := 0
	for info, err := range s.Blobs(t.Context()) {
		must(t, err)
		if size, ok := want[info.Digest]; !ok || size != info.Size || info.CreatedAt.IsZero() || !info.Settled {
			t.Errorf("got %v, which was not stored so", info)
		}
		n++
	}
	if n != len(want) {
		t.Errorf("got %d blobs, want %d", n, len(want))
	}
	seen := map[digest.Digest]bool{}
	for d, err := range s.Digests(t.Context()) {
		must(t, err)
		if _, ok := want[d]; !ok || seen[d] {
			t.Errorf("got %s, which was not stored or comes twice", d)
		}
		seen[d] = true
	}
	if len(seen) != len(want) {
		t.Errorf("got %d digests, want %d", len(seen), len(want))
	}
	n = 0
	for _, err := range s.Blobs(t.Context()) {
		must(t, err)
		if n++; n == 3 {
			break // a caller may stop
		}
	}
	for _, err := range s.Digests(t.Context()) {
		must(t, err)
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.Blobs(ctx) {
		kind(t, "a cancelled listing", err, context.Canceled)
	}
	for _, err := range s.Digests(ctx) {
		kind(t, "a cancelled listing of digests", err, context.Canceled)
	}
}

func resume(t *testing.T, s content.Store) {
	for _, size := range []int{3000, 3 << 20} {
		p := Bytes(6, size)
		d := strongest(s).FromBytes(p)
		want := content.Want{Digest: d, Size: int64(size)}
		for _, end := range []int{size / 3, size / 2, size} {
			in := begin(t, s, "k", want)
			if end > size/3 && in.Offset() == 0 {
				t.Errorf("%d bytes: it started from zero", size)
			}
			if in.Digest() != strongest(s).FromBytes(p[:in.Offset()]) {
				t.Errorf("%d bytes: the digest at %d is wrong", size, in.Offset())
			}
			write(t, in, p[in.Offset():end])
			if end < size {
				must(t, in.Close())
				must(t, in.Close())
				continue
			}
			must(t, s.Commit(t.Context(), in))
		}
		holds(t, s, d, p)
	}
}

func resumeWhole(t *testing.T, s content.Store) {
	p := Bytes(7, 2<<20)
	want := content.Want{Digest: digest.FromBytes(p), Size: int64(len(p))}
	in := begin(t, s, "k", want)
	write(t, in, p)
	must(t, in.Close())
	in = begin(t, s, "k", want)
	if in.Offset() != want.Size || in.Digest() != want.Digest {
		t.Errorf("got %d, %s, want all of it", in.Offset(), in.Digest())
	}
	must(t, s.Commit(t.Context(), in))
	holds(t, s, want.Digest, p)
}

func otherWant(t *testing.T, s content.Store) {
	p, q := Bytes(8, 2000), Bytes(9, 2000)
	for _, want := range []content.Want{
		{Digest: digest.FromBytes(q), Size: 2000},
		{Digest: strongest(s).FromBytes(q), Size: -1},
		{Size: 2000},
	} {
		in := begin(t, s, "k", content.Want{Digest: digest.FromBytes(p), Size: 2000})
		write(t, in, p[:1500])
		must(t, in.Close())
		in = begin(t, s, "k", want)
		if in.Offset() != 0 {
			t.Errorf("%v goes on from %d of another's bytes", want, in.Offset())
		}
		write(t, in, q)
		must(t, s.Commit(t.Context(), in))
		d := want.Algorithm().FromBytes(q)
		holds(t, s, d, q)
		must(t, s.Delete(t.Context(), d))
	}
}

func closeWithoutBytes(t *testing.T, s content.Store) {
	for _, size := range []int64{10, 10 << 20, -1} {
		must(t, begin(t, s, "k", content.Want{Size: size}).Close())
		if list := ingests(t, s); len(list) != 0 {
			t.Errorf("size %d: got %v, want none", size, list)
		}
	}
}

func reset(t *testing.T, s content.Store) {
	p := Bytes(10, 2<<20)
	want := content.Want{Digest: digest.FromBytes(p), Size: int64(len(p))}
	in := begin(t, s, "k", want)
	write(t, in, Bytes(11, 1<<20))
	must(t, in.Close())
	in = begin(t, s, "k", want)
	must(t, in.Reset())
	if in.Offset() != 0 || in.Digest() != digest.FromBytes(nil) {
		t.Errorf("after Reset: got %d, %s", in.Offset(), in.Digest())
	}
	write(t, in, p)
	must(t, s.Commit(t.Context(), in))
	holds(t, s, want.Digest, p)
}

func writeElsewhere(t *testing.T, s content.Store) {
	in := begin(t, s, "k", content.Want{Size: 10})
	write(t, in, []byte("12345"))
	for _, off := range []int64{0, 4, 6, -1} {
		n, err := in.WriteAt([]byte("x"), off)
		kind(t, "write elsewhere", err, errdefs.ErrOutOfRange)
		if n != 0 || in.Offset() != 5 {
			t.Errorf("write at %d: got %d, offset %d", off, n, in.Offset())
		}
	}
	write(t, in, []byte("67890"))
	must(t, s.Commit(t.Context(), in))
	holds(t, s, digest.FromString("1234567890"), []byte("1234567890"))
}

func tooLong(t *testing.T, s content.Store) {
	in := begin(t, s, "k", content.Want{Size: 10})
	write(t, in, []byte("12345"))
	n, err := in.WriteAt([]byte("678901"), 5)
	var size *content.SizeError
	if n != 0 || !errors.As(err, &size) || size.Want != 10 || size.Got != 11 {
		t.Errorf("got %d, %v, want a SizeError of 11 where 10 were expected", n, err)
	}
	kind(t, "too long", err, errdefs.ErrDataLoss)
	must(t, in.Abort())
}

func tooShort(t *testing.T, s content.Store) {
	p := Bytes(12, 2000)
	want := content.Want{Digest: digest.FromBytes(p), Size: 2000}
	in := begin(t, s, "k", want)
	write(t, in, p[:1200])
	err := s.Commit(t.Context(), in)
	var size *content.SizeError
	if !errors.As(err, &size) || size.Got != 1200 {
		t.Errorf("got %v, want a SizeError", err)
	}
	kind(t, "too short", err, errdefs.ErrOutOfRange)
	missing(t, s, want.Digest)
	in = begin(t, s, "k", want)
	if in.Offset() != 1200 {
		t.Errorf("kept for another try: got %d bytes, want 1200", in.Offset())
	}
	write(t, in, p[1200:])
	must(t, s.Commit(t.Context(), in))
	holds(t, s, want.Digest, p)
}

func wrongBytes(t *testing.T, s content.Store) {
	p := Bytes(13, 2000)
	want := content.Want{Digest: digest.FromString("other"), Size: 2000}
	in := begin(t, s, "k", want)
	write(t, in, p)
	err := s.Commit(t.Context(), in)
	var mismatch *content.MismatchError
	if !errors.As(err, &mismatch) || mismatch.Want != want.Digest || mismatch.Got != digest.FromBytes(p) {
		t.Errorf("got %v, want a MismatchError", err)
	}
	kind(t, "wrong bytes", err, errdefs.ErrDataLoss)
	missing(t, s, want.Digest)
	missing(t, s, digest.FromBytes(p))
	in = begin(t, s, "k", want)
	if in.Offset() != 0 {
		t.Errorf("wrong bytes were kept: %d", in.Offset())
	}
	must(t, in.Abort())
}

func othersCommitted(t *testing.T, s content.Store) {
	var list []content.Ingest
	for i := range 6 {
		p := Bytes(uint64(20+i), 500)
		in := begin(t, s, string(rune('a'+i)), content.Want{Digest: digest.FromBytes(p), Size: 500})
		if i == 2 {
			p = p[:400]
		}
		write(t, in, p)
		list = append(list, in)
	}
	kind(t, "one of many too short", s.Commit(t.Context(), list...), errdefs.ErrOutOfRange)
	for i := range 6 {
		p := Bytes(uint64(20+i), 500)
		if i == 2 {
			missing(t, s, digest.FromBytes(p))
		} else {
			holds(t, s, digest.FromBytes(p), p)
		}
	}
	must(t, s.Commit(t.Context())) // of nothing
}

func sameBlobTwice(t *testing.T, s content.Store) {
	p := Bytes(30, 500)
	a := begin(t, s, "a", content.Want{Digest: digest.FromBytes(p), Size: 500})
	b := begin(t, s, "b", content.Want{Digest: digest.FromBytes(p), Size: 500})
	c := begin(t, s, "c", content.Want{Size: -1})
	write(t, a, p)
	write(t, b, p)
	write(t, c, p)
	must(t, s.Commit(t.Context(), a, b))
	must(t, s.Commit(t.Context(), c))
	holds(t, s, digest.FromBytes(p), p)
	if list := ingests(t, s); len(list) != 0 {
		t.Errorf("ingests: got %v, want none", list)
	}
}

func ended(t *testing.T, s content.Store) {
	p := Bytes(31, 100)
	in := begin(t, s, "k", content.Want{Size: 200})
	write(t, in, p)
	must(t, in.Close())
	_, err := in.WriteAt(p, 100)
	kind(t, "write after Close", err, errdefs.ErrFailedPrecondition)
	kind(t, "reset after Close", in.Reset(), errdefs.ErrFailedPrecondition)
	kind(t, "commit after Close", s.Commit(t.Context(), in), errdefs.ErrFailedPrecondition)
	must(t, in.Abort())
	if list := ingests(t, s); len(list) != 1 {
		t.Errorf("Abort after Close threw the bytes away: %v", list)
	}
}

func oneWriter(t *testing.T, s content.Store) {
	in := begin(t, s, "k", content.Want{Size: 10})
	kind(t, "a second writer", beginErr(t, s, "k", content.Want{Size: 10}), errdefs.ErrUnavailable)
	kind(t, "a second writer of something else", beginErr(t, s, "k", content.Want{Size: 11}), errdefs.ErrUnavailable)
	kind(t, "abort of a busy one", s.Abort(t.Context(), "k"), errdefs.ErrUnavailable)
	must(t, begin(t, s, "other", content.Want{Size: 10}).Close())
	must(t, in.Close())
	must(t, begin(t, s, "k", content.Want{Size: 10}).Close())
}

func waiterFindsBlob(t *testing.T, s content.Store) {
	p := Bytes(32, 1000)
	want := content.Want{Digest: digest.FromBytes(p), Size: 1000, Wait: true}
	in := begin(t, s, "k", want)
	result := make(chan error, 1)
	go func() {
		_, err := s.Begin(t.Context(), "k", want)
		result <- err
	}()
	write(t, in, p)
	must(t, s.Commit(t.Context(), in))
	kind(t, "the waiter", <-result, errdefs.ErrAlreadyExists)
}

func waiterTakesOver(t *testing.T, s content.Store) {
	p := Bytes(33, 1000)
	want := content.Want{Digest: digest.FromBytes(p), Size: 1000, Wait: true}
	for _, end := range []func(content.Ingest) error{content.Ingest.Close, content.Ingest.Abort} {
		in := begin(t, s, "k", want)
		write(t, in, p[:600])
		result := make(chan content.Ingest, 1)
		go func() {
			in, err := s.Begin(t.Context(), "k", want)
			if err != nil {
				t.Errorf("the waiter: %v", err)
			}
			result <- in
		}()
		must(t, end(in))
		next := <-result
		if next == nil {
			return
		}
		write(t, next, p[next.Offset():])
		must(t, s.Commit(t.Context(), next))
		holds(t, s, want.Digest, p)
		must(t, s.Delete(t.Context(), want.Digest))
	}
}

func waiterGivesUp(t *testing.T, s content.Store) {
	in := begin(t, s, "k", content.Want{Size: 10})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	_, err := s.Begin(ctx, "k", content.Want{Size: 10, Wait: true})
	kind(t, "a waiter out of time", err, context.DeadlineExceeded)
	must(t, in.Abort())
}

func manyWaiters(t *testing.T, s content.Store) {
	p := Bytes(34, 3000)
	want := content.Want{Digest: digest.FromBytes(p), Size: 3000, Wait: true}
	var wg sync.WaitGroup
	var mu sync.Mutex
	wrote := 0
	for range 8 {
		wg.Go(func() {
			in, err := s.Begin(t.Context(), "k", want)
			if errdefs.IsAlreadyExists(err) {
				return
			}
			if err != nil {
				t.Errorf("begin: %v", err)
				return
			}
			if _, err := in.WriteAt(p, 0); err != nil {
				t.Errorf("write: %v", err)
			}
			if err := s.Commit(t.Context(), in); err != nil {
				t.Errorf("commit: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			wrote++
		})
	}
	wg.Wait()
	if wrote != 1 {
		t.Errorf("got %d writers of one blob, want 1", wrote)
	}
	holds(t, s, want.Digest, p)
}

func listIngests(t *testing.T, s content.Store) {
	p := Bytes(35, 2<<20)
	want := content.Want{Digest: digest.FromBytes(p), Size: int64(len(p))}
	before := time.Now().Add(-time.Minute)
	busy := begin(t, s, "busy", want)
	write(t, busy, p[:1000])
	idle := begin(t, s, "idle", content.Want{Size: -1})
	write(t, idle, p[:500])
	must(t, idle.Close())
	list := ingests(t, s)
	if len(list) != 2 {
		t.Fatalf("got %v, want two", list)
	}
	b, i := list[0], list[1]
	if b.Key != "busy" || !b.Busy || b.Size != want.Size || b.Digest != want.Digest || b.Offset != 1000 {
		t.Errorf("the busy one: got %+v", b)
	}
	if i.Key != "idle" || i.Busy || i.Size >= 0 || i.Digest != "" || i.Offset != 500 {
		t.Errorf("the idle one: got %+v", i)
	}
	for _, st := range list {
		one, err := s.Status(t.Context(), st.Key)
		must(t, err)
		if !one.StartedAt.Equal(st.StartedAt) || one.Key != st.Key || one.Offset != st.Offset || one.Size != st.Size || one.Digest != st.Digest || one.Busy != st.Busy {
			t.Errorf("%s by its key: got %+v, want %+v", st.Key, one, st)
		}
		if st.StartedAt.Before(before) || st.UpdatedAt.Before(before) {
			t.Errorf("%s: started %v, updated %v", st.Key, st.StartedAt, st.UpdatedAt)
		}
	}
	must(t, busy.Abort())
	_, err := s.Status(t.Context(), "busy")
	kind(t, "status of an aborted one", err, errdefs.ErrNotFound)
	_, err = s.Status(t.Context(), "")
	kind(t, "status of none", err, errdefs.ErrInvalidArgument)
}

func abort(t *testing.T, s content.Store) {
	p := Bytes(36, 2<<20)
	want := content.Want{Digest: digest.FromBytes(p), Size: int64(len(p))}
	in := begin(t, s, "k", want)
	write(t, in, p[:1<<20])
	must(t, in.Close())
	must(t, s.Abort(t.Context(), "k"))
	kind(t, "abort twice", s.Abort(t.Context(), "k"), errdefs.ErrNotFound)
	in = begin(t, s, "k", want)
	if in.Offset() != 0 {
		t.Errorf("after Abort: got %d bytes", in.Offset())
	}
	write(t, in, p[:1<<20])
	must(t, in.Abort())
	if list := ingests(t, s); len(list) != 0 {
		t.Errorf("ingests: got %v, want none", list)
	}
}

func invalidArguments(t *testing.T, s content.Store) {
	for _, d := range []digest.Digest{"", "sha256:", "sha256:ABCD", "md5:d41d8cd98f00b204e9800998ecf8427e", "../../x", digest.SHA384.FromString("")} {
		_, infoErr := s.Info(t.Context(), d)
		_, openErr := s.Open(t.Context(), d)
		kind(t, "info", infoErr, errdefs.ErrInvalidArgument)
		kind(t, "open", openErr, errdefs.ErrInvalidArgument)
		kind(t, "delete", s.Delete(t.Context(), d), errdefs.ErrInvalidArgument)
		if d != "" {
			kind(t, "begin", beginErr(t, s, "k", content.Want{Digest: d}), errdefs.ErrInvalidArgument)
		}
	}
	for _, key := range []string{"", string(make([]byte, content.MaxKey+1)), "\xff"} {
		kind(t, "key", beginErr(t, s, key, content.Want{}), errdefs.ErrInvalidArgument)
		kind(t, "abort", s.Abort(t.Context(), key), errdefs.ErrInvalidArgument)
	}
	for _, key := range []string{"../../x", "a/b", ".", "\x00", string(bytes.Repeat([]byte("\x01"), maxKey(s)))} {
		in := begin(t, s, key, content.Want{Size: 4})
		write(t, in, []byte("12"))
		must(t, in.Close())
		in = begin(t, s, key, content.Want{Size: 4})
		if in.Offset() != 2 {
			t.Errorf("key %.20q: got %d bytes, want 2", key, in.Offset())
		}
		must(t, in.Abort())
	}
}

func cancelledCommit(t *testing.T, s content.Store) {
	p := Bytes(37, 1000)
	want := content.Want{Digest: digest.FromBytes(p), Size: 1000}
	in := begin(t, s, "k", want)
	write(t, in, p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	kind(t, "a cancelled commit", s.Commit(ctx, in), context.Canceled)
	in = begin(t, s, "k", want)
	if in.Offset() != 1000 {
		t.Errorf("kept for another try: got %d bytes, want 1000", in.Offset())
	}
	must(t, s.Commit(t.Context(), in))
	holds(t, s, want.Digest, p)
}

func largeBlob(t *testing.T, s content.Store) {
	p := Bytes(38, 20<<20+12345)
	want := content.Want{Digest: digest.FromBytes(p), Size: int64(len(p))}
	in := begin(t, s, "k", want)
	for chunk := range slices.Chunk(p, 300_000) {
		write(t, in, chunk)
	}
	must(t, s.Commit(t.Context(), in))
	holds(t, s, want.Digest, p)
}

// Bytes returns n bytes that look random and are the same for the same seed.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(p) // never fails
	return p
}

func begin(t *testing.T, s content.Store, key string, want content.Want) content.Ingest {
	t.Helper()
	in, err := s.Begin(t.Context(), key, want)
	must(t, err)
	return in
}

func beginErr(t *testing.T, s content.Store, key string, want content.Want) error {
	t.Helper()
	in, err := s.Begin(t.Context(), key, want)
	if err == nil {
		must(t, in.Abort())
	}
	return err
}

func write(t *testing.T, in content.Ingest, p []byte) {
	t.Helper()
	if n, err := in.WriteAt(p, in.Offset()); n != len(p) || err != nil {
		t.Fatalf("WriteAt: got %d, %v, want %d", n, err, len(p))
	}
}

func ingests(t *testing.T, s content.Store) []content.Status {
	t.Helper()
	list, err := s.Ingests(t.Context())
	must(t, err)
	slices.SortFunc(list, func(a, b content.Status) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
	return list
}

// holds checks that the blob d can be read and is p.
func holds(t *testing.T, s content.Store, d digest.Digest, p []byte) {
	t.Helper()
	got, err := content.ReadBlob(t.Context(), s, d, int64(len(p)))
	if err != nil || !bytes.Equal(got, p) {
		t.Fatalf("blob %s: got %d bytes, %v, want %d", d, len(got), err, len(p))
	}
	r, err := s.Open(t.Context(), d)
	must(t, err)
	tail := make([]byte, 10)
	if n, err := r.ReadAt(tail, max(0, int64(len(p))-5)); err != io.EOF || !bytes.Equal(tail[:n], p[max(0, len(p)-5):]) {
		t.Errorf("blob %s: its end: got %x, %v", d, tail[:n], err)
	}
	must(t, r.Close())
}

func missing(t *testing.T, s content.Store, d digest.Digest) {
	t.Helper()
	_, infoErr := s.Info(t.Context(), d)
	_, openErr := s.Open(t.Context(), d)
	kind(t, "info", infoErr, errdefs.ErrNotFound)
	kind(t, "open", openErr, errdefs.ErrNotFound)
}

func kind(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
