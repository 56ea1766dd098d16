package layer

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/layer/tarstream"
)

// A Meter holds a layer to its limits.
type Meter struct {
	Limits  Limits
	Entries int64 // so far
	size    int64
}

// Count adds an entry. Errors: [errdefs.ErrResourceExhausted] for the first one beyond a limit.
func (m *Meter) Count(e *tarstream.Entry) error {
	if limit := cmp.Or(m.Limits.Entries, 4<<20); m.Entries >= limit {
		return fmt.Errorf("entry %s: the layer has more than %d entries: %w", quote(e.Name), limit, errdefs.ErrResourceExhausted)
	}
	if limit := cmp.Or(m.Limits.Size, 1<<40); e.Size > limit-m.size {
		return fmt.Errorf("entry %s: the layer has more than %d bytes of files: %w", quote(e.Name), limit, errdefs.ErrResourceExhausted)
	}
	m.Entries++
	m.size += e.Size
	return nil
}

// maxLosses bounds how many kinds and details are told apart: both come out of the layer.
const maxLosses = 1000

// Losses gathers what could not be made, by kind and detail. It is for concurrent use. What it lists
// depends on the order of the entries only, unless there are more than maxLosses: those that come
// when it is full are counted together.
type Losses struct {
	Report bool // or else refuse

	mu    sync.Mutex
	found map[lossKey]*foundLoss
}

type lossKey struct {
	kind   Kind
	detail string
}

type foundLoss struct {
	Loss
	entry int64
}

// Add notes a loss of the entry with that number, or refuses it with a [LossError].
func (l *Losses) Add(entry int64, loss Loss) error {
	if !l.Report {
		return &LossError{loss}
	}
	l.Note(entry, loss)
	return nil
}

// Note is Add for what is reported under every policy.
func (l *Losses) Note(entry int64, loss Loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := lossKey{loss.Kind, loss.Detail}
	f := l.found[key]
	if f == nil && len(l.found) >= maxLosses {
		loss.Detail = "and others"
		key.detail = loss.Detail
		f = l.found[key]
	}
	switch {
	case f == nil:
		if l.found == nil {
			l.found = map[lossKey]*foundLoss{}
		}
		l.found[key] = &foundLoss{loss, entry}
		return
	case entry < f.entry:
		f.Path, f.entry = loss.Path, entry
	}
	f.Count += loss.Count
}

// List gives the losses in the order of the entries that they were first seen at.
func (l *Losses) List() []Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := slices.SortedFunc(maps.Values(l.found), func(a, b *foundLoss) int {
		return cmp.Or(cmp.Compare(a.entry, b.entry), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Detail, b.Detail))
	})
	var list []Loss
	for _, f := range found {
		list = append(list, f.Loss)
	}
	return list
}
