// Package kvtest is the suite that every [kv.DB] passes.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"

	"github.com/stowage/stowage/internal/kv"
)

// Run checks that a database keeps the contract of [kv.DB]. Open is called once per check and
// returns an empty DB; it registers its own cleanup with t.
func Run(t *testing.T, open func(t *testing.T) kv.DB) {
	for _, check := range []struct {
		name string
		run  func(*testing.T, kv.DB)
	}{
		{"empty", empty},
		{"put, get, delete", putGetDelete},
		{"own writes", ownWrites},
		{"keys", keys},
		{"prefixes in order", prefixes},
		{"scans that go on", goOn},
		{"failed update", failedUpdate},
		{"panicking update", panickingUpdate},
		{"snapshot", snapshot},
		{"views side by side", sideBySide},
		{"updates one by one", oneByOne},
		{"updates at once, some fail", someFail},
		{"cancelled", cancelled},
		{"compact", compact},
	} {
		t.Run(check.name, func(t *testing.T) { check.run(t, open(t)) })
	}
	t.Run("model", func(t *testing.T) { model(t, open) })
}

func update(t *testing.T, db kv.DB, f func(kv.Writer) error) {
	t.Helper()
	if err := db.Update(t.Context(), f); err != nil {
		t.Fatalf("update: %v", err)
	}
}

func view(t *testing.T, db kv.DB, f func(kv.Reader) error) {
	t.Helper()
	if err := db.View(t.Context(), f); err != nil {
		t.Fatalf("view: %v", err)
	}
}

func put(t *testing.T, db kv.DB, pairs ...string) {
	t.Helper()
	update(t, db, func(w kv.Writer) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := w.Put([]byte(pairs[i]), []byte(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
}

// scan lists key=value under prefix.
func scan(r kv.Reader, prefix string) (found []string, err error) {
	return list(r.Scan([]byte(prefix)))
}

func list(entries iter.Seq2[kv.Entry, error]) (found []string, err error) {
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		found = append(found, string(e.Key)+"="+string(e.Value))
	}
	return found, nil
}

func expect(t *testing.T, db kv.DB, prefix string, want ...string) {
	t.Helper()
	view(t, db, func(r kv.Reader) error {
		got, err := scan(r, prefix)
		if err == nil && !slices.Equal(got, want) {
			t.Errorf("scan of %q: got %q, want %q", prefix, got, want)
		}
		return err
	})
}

func empty(t *testing.T, db kv.DB) {
	expect(t, db, "")
	view(t, db, func(r kv.Reader) error {
		if _, err := r.Get([]byte("a")); !errdefs.IsNotFound(err) {
			t.Errorf("missing key: got %v, want not found", err)
		}
		got, err := list(r.ScanFrom(nil, []byte("a")))
		if len(got) != 0 {
			t.Errorf("scan: got %q", got)
		}
		return err
	})
}

func putGetDelete(t *testing.T, db kv.DB) {
	put(t, db, "a", "1", "b", "", "c", "3")
	put(t, db, "a", "2")
	update(t, db, func(w kv.Writer) error {
		return errors.Join(w.Delete([]byte("c")), w.Delete([]byte("never there")))
	})
	expect(t, db, "", "a=2", "b=")
	view(t, db, func(r kv.Reader) error {
		for key, want := range map[string]string{"a": "2", "b": ""} {
			if got, err := r.Get([]byte(key)); err != nil || string(got) != want {
				t.Errorf("get %s: got %q, %v, want %q", key, got, err, want)
			}
		}
		if _, err := r.Get([]byte("c")); !errdefs.IsNotFound(err) {
			t.Errorf("deleted key: got %v, want not found", err)
		}
		return nil
	})
}

func ownWrites(t *testing.T, db kv.DB) {
	put(t, db, "a", "1", "b", "1", "c", "1")
	update(t, db, func(w kv.Writer) error {
		key, value := []byte("a"), []byte("2")
		err := errors.Join(w.Put(key, value), w.Delete([]byte("b")), w.Put([]byte("d"), []byte("2")))
		key[0], value[0] = 'x', 'x' // both were copied
		for key, want := range map[string]string{"a": "2", "c": "1", "d": "2"} {
			if got, err := w.Get([]byte(key)); err != nil || string(got) != want {
				t.Errorf("get %s: got %q, %v, want %q", key, got, err, want)
			}
		}
		if _, err := w.Get([]byte("b")); !errdefs.IsNotFound(err) {
			t.Errorf("deleted key: got %v, want not found", err)
		}
		got, scanErr := scan(w, "")
		if want := []string{"a=2", "c=1", "d=2"}; !slices.Equal(got, want) {
			t.Errorf("scan: got %q, want %q", got, want)
		}
		return errors.Join(err, scanErr, w.Put([]byte("c"), []byte("3")), w.Delete([]byte("d")))
	})
	expect(t, db, "", "a=2", "c=3")
}

func keys(t *testing.T, db kv.DB) {
	long := bytes.Repeat([]byte("k"), kv.MaxKey)
	update(t, db, func(w kv.Writer) error {
		for _, key := range [][]byte{nil, {}, append(long, 'k')} {
			if err := w.Put(key, nil); !errdefs.IsInvalidArgument(err) {
				t.Errorf("key of %d bytes: got %v, want invalid argument", len(key), err)
			}
		}
		return errors.Join(w.Put(long, []byte("long")), w.Put([]byte{0}, []byte("zero")), w.Put([]byte{255}, []byte("last")))
	})
	view(t, db, func(r kv.Reader) error {
		for key, want := range map[string]string{string(long): "long", "\x00": "zero", "\xff": "last"} {
			if got, err := r.Get([]byte(key)); err != nil || string(got) != want {
				t.Errorf("key of %d bytes: got %q, %v, want %q", len(key), got, err, want)
			}
		}
		return nil
	})
}

func prefixes(t *testing.T, db kv.DB) {
	put(t, db, "b/2", "", "b", "", "a", "", "b/", "", "b0", "", "b/10", "", "b/1", "", "b.", "", "c", "")
	expect(t, db, "b/", "b/=", "b/1=", "b/10=", "b/2=")
	expect(t, db, "b/1", "b/1=", "b/10=")
	expect(t, db, "b", "b=", "b.=", "b/=", "b/1=", "b/10=", "b/2=", "b0=")
	expect(t, db, "d")
	view(t, db, func(r kv.Reader) error {
		for e, err := range r.Scan([]byte("b")) { // which ends early
			if got, want := string(e.Key), "b"; got != want {
				t.Errorf("first: got %q, want %q", got, want)
			}
			return err
		}
		return nil
	})
}

func goOn(t *testing.T, db kv.DB) {
	put(t, db, "a", "", "b", "", "b/1", "", "b/3", "", "b/30", "", "c", "")
	check := func(r kv.Reader) error {
		for _, tt := range []struct {
			prefix, from string
			want         []string
		}{
			{"b/", "b/3", []string{"b/3=", "b/30="}},
			{"b/", "b/3\x00", []string{"b/30="}}, // behind b/3
			{"b/", "b/2", []string{"b/3=", "b/30="}},
			{"b/", "b/4", nil},
			{"b/", "", []string{"b/1=", "b/3=", "b/30="}},
			{"b/", "a", []string{"b/1=", "b/3=", "b/30="}},
			{"b/", "c", nil},
			{"", "b/3", []string{"b/3=", "b/30=", "c="}},
			{"b/3", "b/3", []string{"b/3=", "b/30="}},
		} {
			got, err := list(r.ScanFrom([]byte(tt.prefix), []byte(tt.from)))
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("scan of %q from %q: got %q, %v, want %q", tt.prefix, tt.from, got, err, tt.want)
			}
		}
		return nil
	}
	view(t, db, check)
	update(t, db, func(w kv.Writer) error { return check(w) })
	update(t, db, func(w kv.Writer) error {
		err := errors.Join(w.Delete([]byte("b/3")), w.Put([]byte("b/4"), nil))
		got, scanErr := list(w.ScanFrom([]byte("b/"), []byte("b/3")))
		if want := []string{"b/30=", "b/4="}; !slices.Equal(got, want) {
			t.Errorf("own writes: got %q, want %q", got, want)
		}
		return errors.Join(err, scanErr)
	})
}

func failedUpdate(t *testing.T, db kv.DB) {
	put(t, db, "a", "1", "b", "1")
	want := errors.New("no")
	err := db.Update(t.Context(), func(w kv.Writer) error {
		err := errors.Join(w.Put([]byte("a"), []byte("2")), w.Delete([]byte("b")))
		_, scanErr := scan(w, "")
		return errors.Join(err, scanErr, w.Put([]byte("c"), []byte("2")), want)
	})
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	expect(t, db, "", "a=1", "b=1")
}

func panickingUpdate(t *testing.T, db kv.DB) {
	put(t, db, "a", "1")
	func() {
		defer func() {
			if got := recover(); got != "mine" {
				t.Errorf("panic of the callback: got %v, want it passed on", got)
			}
		}()
		update(t, db, func(w kv.Writer) error {
			if err := w.Put([]byte("a"), []byte("2")); err != nil {
				return err
			}
			panic("mine")
		})
	}()
	put(t, db, "b", "1")
	expect(t, db, "", "a=1", "b=1")
}

// A View sees all of an Update or nothing of it, whenever the two meet.
func snapshot(t *testing.T, db kv.DB) {
	const rounds = 30
	put(t, db, "a", "0", "b", "0")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range rounds {
				view(t, db, func(r kv.Reader) error {
					a, errA := r.Get([]byte("a"))
					a = bytes.Clone(a)
					time.Sleep(50 * time.Microsecond) // room for an Update, if it is let in
					b, errB := r.Get([]byte("b"))
					if !bytes.Equal(a, b) {
						t.Errorf("a view saw half an update: got a=%s b=%s", a, b)
					}
					return errors.Join(errA, errB)
				})
			}
		})
	}
	for i := range rounds {
		put(t, db, "a", strconv.Itoa(i), "b", strconv.Itoa(i))
	}
	wg.Wait()
}

func sideBySide(t *testing.T, db kv.DB) {
	put(t, db, "a", "1")
	in, out := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			view(t, db, func(kv.Reader) error {
				in <- struct{}{}
				<-out
				return nil
			})
		})
	}
	<-in
	<-in // both are inside
	close(out)
	wg.Wait()
}

func oneByOne(t *testing.T, db kv.DB) {
	const writers, rounds = 4, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				update(t, db, increment)
			}
		})
	}
	wg.Wait()
	expect(t, db, "", fmt.Sprintf("n=%d", writers*rounds))
}

// Of Updates that wait for each other, those that fail, panic or are cancelled leave nothing behind, and
// take nothing from the others.
func someFail(t *testing.T, db kv.DB) {
	const writers, rounds = 16, 12
	put(t, db, "base", "1", "n", "0")
	var acknowledged atomic.Int64
	no := errors.New("no")
	spoil := func(w kv.Writer) error {
		err := errors.Join(w.Put([]byte("n"), []byte("-1000")), w.Delete([]byte("base")), w.Put([]byte("left"), nil))
		if found, scanErr := scan(w, ""); scanErr != nil || slices.Contains(found, "base=1") {
			t.Errorf("own writes: got %q, %v", found, scanErr)
		}
		return errors.Join(err, w.Put([]byte("left too"), nil), w.Put([]byte("base"), []byte("2")))
	}
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for round := range rounds {
				ctx, cancel := context.WithCancel(t.Context())
				act, want := increment, error(nil)
				switch (i + round) % 4 {
				case 0:
					act, want = func(w kv.Writer) error { return errors.Join(spoil(w), no) }, no
				case 1:
					act, want = func(w kv.Writer) error { panic(errors.Join(spoil(w), no)) }, no
				case 2:
					cancel()
					want = context.Canceled
				}
				err := recovered(func() error { return db.Update(ctx, act) })
				cancel()
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
				if err == nil {
					acknowledged.Add(1)
				}
			}
		})
	}
	wg.Wait()
	expect(t, db, "", "base=1", fmt.Sprintf("n=%d", acknowledged.Load()))
}

// recovered turns a panic with an error into that error.
func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = p.(error)
		}
	}()
	return f()
}

func increment(w kv.Writer) error {
	old, err := w.Get([]byte("n"))
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	n, _ := strconv.Atoi(string(old)) // nothing is zero
	return w.Put([]byte("n"), []byte(strconv.Itoa(n+1)))
}

func cancelled(t *testing.T, db kv.DB) {
	put(t, db, "a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	update(t, db, func(w kv.Writer) error {
		go func() {
			waited <- db.Update(ctx, func(kv.Writer) error {
				t.Error("two updates at once")
				return nil
			})
		}()
		select {
		case err := <-waited:
			t.Errorf("update beside an update: got %v, want it to wait", err)
		case <-time.After(5 * time.Millisecond):
			cancel()
			if err := <-waited; !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled while it waited: got %v", err)
			}
		}
		return nil
	})
	unused := errors.New("ran")
	if err := db.View(ctx, func(kv.Reader) error { return unused }); !errors.Is(err, context.Canceled) {
		t.Errorf("view under an ended context: got %v", err)
	}
	if err := db.Update(ctx, func(kv.Writer) error { return unused }); !errors.Is(err, context.Canceled) {
		t.Errorf("update under an ended context: got %v", err)
	}
}

func compact(t *testing.T, db kv.DB) {
	if err := db.Compact(t.Context()); err != nil {
		t.Fatalf("compact an empty database: %v", err)
	}
	put(t, db, "a", "1", "b", "2")
	if err := db.Compact(t.Context()); err != nil {
		t.Fatalf("compact: %v", err)
	}
	expect(t, db, "", "a=1", "b=2")
	put(t, db, "c", "3")
	expect(t, db, "", "a=1", "b=2", "c=3")
}

// Random updates, some of which fail, leave what the same writes leave in a map.
func model(t *testing.T, open func(t *testing.T) kv.DB) {
	rapid.Check(t, func(rt *rapid.T) {
		t.Run("", func(t *testing.T) {
			db, want := open(t), map[string]string{}
			key := rapid.StringMatching(`[a-c/]{1,3}`)
			for range rapid.IntRange(1, 6).Draw(rt, "updates") {
				fail := rapid.Bool().Draw(rt, "fail")
				next := map[string]string{}
				for k, v := range want {
					next[k] = v
				}
				err := db.Update(t.Context(), func(w kv.Writer) error {
					for range rapid.IntRange(0, 12).Draw(rt, "writes") {
						k := key.Draw(rt, "key")
						if rapid.Bool().Draw(rt, "delete") {
							delete(next, k)
							if err := w.Delete([]byte(k)); err != nil {
								return err
							}
							continue
						}
						next[k] = rapid.String().Draw(rt, "value")
						if err := w.Put([]byte(k), []byte(next[k])); err != nil {
							return err
						}
						same(t, w, next, key.Draw(rt, "prefix"))
					}
					if fail {
						return errFail
					}
					return nil
				})
				if fail != errors.Is(err, errFail) || !fail && err != nil {
					t.Fatalf("update: got %v", err)
				}
				if !fail {
					want = next
				}
				view(t, db, func(r kv.Reader) error {
					same(t, r, want, "")
					same(t, r, want, key.Draw(rt, "prefix"))
					return nil
				})
			}
		})
	})
}

var errFail = errors.New("the update shall fail")

func same(t *testing.T, r kv.Reader, entries map[string]string, prefix string) {
	t.Helper()
	got, err := scan(r, prefix)
	var want []string
	for k, v := range entries {
		if bytes.HasPrefix([]byte(k), []byte(prefix)) {
			want = append(want, k+"="+v)
		}
	}
	slices.SortFunc(want, func(a, b string) int {
		ka, _, _ := bytes.Cut([]byte(a), []byte("="))
		kb, _, _ := bytes.Cut([]byte(b), []byte("="))
		return bytes.Compare(ka, kb)
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("scan of %q: got %q, %v, want %q", prefix, got, err, want)
	}
}
