package doctor

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stowage/stowage/internal/image"
)

// A ward has things that are broken, by kind, and what mends them.
type ward struct {
	broken map[string][]string // subjects by kind
	looked []string
}

// kinds of the ward; mend repairs a thing, or says why not.
func (w *ward) kinds(names []string, mend func(kind, subject string) error) (list []kind) {
	for _, name := range names {
		list = append(list, kind{name, func(e *Exam, _ context.Context) error {
			w.looked = append(w.looked, name)
			for _, s := range w.broken[name] {
				e.report(Finding{Subject: s, Repair: "mend it", mend: func(context.Context) error { return mend(name, s) }})
			}
			return nil
		}})
	}
	return list
}

func (w *ward) heal(kind, subject string) {
	w.broken[kind] = slices.DeleteFunc(slices.Clone(w.broken[kind]), func(s string) bool { return s == subject })
}

func TestRepairLooksAgain(t *testing.T) {
	w := &ward{broken: map[string][]string{"row": {"a"}, "blob": {"b", "c"}}}
	e := Exam{Options: Options{Repair: true}}
	got, err := e.run(t.Context(), w.kinds([]string{"row", "blob"}, func(kind, subject string) error {
		switch subject {
		case "c":
			return errors.New("no registry has it")
		case "b": // and behind it is more
			w.broken["row"] = append(w.broken["row"], "d")
		}
		w.heal(kind, subject)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := []Finding{
		{Kind: "row", Subject: "a", Repair: "mend it", Repaired: true},
		{Kind: "blob", Subject: "b", Repair: "mend it", Repaired: true},
		{Kind: "blob", Subject: "c", Repair: "mend it; that failed: no registry has it"},
		{Kind: "row", Subject: "d", Repair: "mend it", Repaired: true},
	}
	if len(got) != len(want) {
		t.Fatalf("got %d findings, want %d: %+v", len(got), len(want), got)
	}
	for i, f := range got {
		f.mend = nil
		if f.id() != want[i].id() || f.Repair != want[i].Repair || f.Repaired != want[i].Repaired {
			t.Errorf("got %+v, want %+v", f, want[i])
		}
	}
	if want := []string{"row", "blob", "row", "blob", "row", "blob"}; !slices.Equal(w.looked, want) {
		t.Errorf("looked at %v, want %v", w.looked, want)
	}
}

func TestLookingChangesNothing(t *testing.T) {
	w := &ward{broken: map[string][]string{"row": {"a"}}}
	var e Exam
	got, err := e.run(t.Context(), w.kinds([]string{"row"}, func(_, subject string) error {
		t.Errorf("%s is mended", subject)
		return nil
	}))
	if err != nil || len(got) != 1 || got[0].Repaired || len(w.looked) != 1 {
		t.Errorf("got %+v, %v, after looking %d times", got, err, len(w.looked))
	}
}

func TestWithoutRowsNothingElseIsLookedFor(t *testing.T) {
	w := &ward{broken: map[string][]string{"row": {"a"}}}
	blind := kind{"database", func(e *Exam, _ context.Context) error {
		e.blind = true
		return nil
	}}
	var e Exam
	if _, err := e.run(t.Context(), append([]kind{blind}, w.kinds([]string{"row"}, nil)...)); err != nil || len(w.looked) > 0 {
		t.Errorf("got %v after looking for %v", err, w.looked)
	}
}

func TestInterruptedRepair(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := &ward{broken: map[string][]string{"row": {"a", "b"}}}
	e := Exam{Options: Options{Repair: true}}
	var mended []string
	got, err := e.run(ctx, w.kinds([]string{"row"}, func(_, subject string) error {
		mended = append(mended, subject)
		cancel()
		return nil
	}))
	if !errors.Is(err, context.Canceled) || len(got) != 1 || len(mended) != 1 {
		t.Errorf("got %+v, %v, and mended %v", got, err, mended)
	}
}

func TestWantedBlobsAreFetchedTogether(t *testing.T) {
	store, meta, img, here := stored(t)
	manifest := here.Manifest()
	lost := manifest.Layers
	for _, d := range lost {
		if err := store.Delete(t.Context(), d.Digest); err != nil {
			t.Fatal(err)
		}
	}
	calls := 0
	e := Exam{Content: store, Meta: meta, Options: Options{Repair: true}}
	e.Refetch = func(_ context.Context, want []image.Descriptor) (map[image.Digest]error, error) {
		if calls++; len(want) != len(lost) {
			t.Errorf("got %d wanted blobs, want %d", len(want), len(lost))
		}
		return map[image.Digest]error{lost[0].Digest: errors.New("it is gone there too")}, nil
	}
	look := kind{"missing", func(e *Exam, _ context.Context) error {
		for _, d := range lost {
			e.report(Finding{Subject: d.Digest.String(), mend: func(context.Context) error {
				e.want(d)
				return nil
			}})
		}
		return nil
	}}
	got, err := e.run(t.Context(), []kind{look})
	if err != nil || calls != 1 || len(got) != 2 || got[0].Repaired || got[0].Repair != "; that failed: it is gone there too" {
		t.Errorf("got %+v, %v, after %d calls", got, err, calls)
	}
	now, err := meta.Image(t.Context(), "default", img.Name)
	if err != nil || now.State != "partial" {
		t.Errorf("the record says %s, %v, want partial", now.State, err)
	}
}
