package registry

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// maxRounds is how often hosts are asked in turn without anything coming of it.
	maxRounds = 5
	// maxPause is how long a server may ask to be left alone before it is left for good, and the
	// longest pause there is.
	maxPause = time.Minute
)

// A rotation takes turns over the hosts that may have what is asked for: each in order, then a
// pause, then again those of them that may have changed their mind. A host that is known to be
// broken, or rests, is passed over unless all are so.
type rotation struct {
	left    []*endpoint
	last    *endpoint // the registry itself: what it says for good is final
	at      int       // index into left of the one whose turn it is
	all     bool      // none is passed over in this round
	round   int
	backoff time.Duration // the first pause
	asked   time.Duration // the longest pause that a host asked for in this round
	faults  []fault       // the newest of each host, in the order in which hosts were met
}

type fault struct {
	host *endpoint
	err  error
}

func newRotation(list []*endpoint, backoff time.Duration) *rotation {
	return &rotation{left: slices.Clone(list), last: list[len(list)-1], backoff: backoff}
}

// next begins a try, at the host that it returns.
func (r *rotation) next() *endpoint {
	if r.at == 0 {
		r.choose()
	}
	return r.host()
}

// host is the one whose turn it is.
func (r *rotation) host() *endpoint { return r.left[r.at] }

// choose passes over hosts, from the one whose turn it would be. It tells whether one is left in
// this round, as there always is in a new one.
func (r *rotation) choose() bool {
	if r.all {
		return r.at < len(r.left)
	}
	i := slices.IndexFunc(r.left[r.at:], func(e *endpoint) bool { return !e.health.away() })
	if i < 0 {
		r.all = r.at == 0
		return r.all
	}
	r.at += i
	return true
}

// progressed tells that something came of the last try: there are as many tries again.
func (r *rotation) progressed() { r.round = 0 }

// failed tells what the host answered whose turn it was, and moves on. It returns how long to
// pause before the next try, or that there is none: over is then what is to be said of all tries.
func (r *rotation) failed(err error) (pause time.Duration, over error) {
	host := r.host()
	r.note(host, err)
	lasting, ask, cost := judge(err)
	if lasting || ask > maxPause {
		if host == r.last {
			return 0, r.sum()
		}
		r.left = slices.Delete(r.left, r.at, r.at+1)
	} else {
		r.asked = max(r.asked, ask)
		r.at++
	}
	if r.choose() {
		return 0, nil
	}
	pause = max(r.asked, jitter(r.backoff<<r.round))
	r.at, r.asked, r.all = 0, 0, false
	if r.round += cost; r.round >= maxRounds {
		return 0, r.sum()
	}
	return min(pause, maxPause), nil
}

func (r *rotation) note(host *endpoint, err error) {
	i := slices.IndexFunc(r.faults, func(f fault) bool { return f.host == host })
	if i < 0 {
		r.faults = append(r.faults, fault{host, err})
		return
	}
	r.faults[i].err = err
}

// judge tells whether an error will last, how long a host asks to be left alone, and how many
// rounds it counts for.
func judge(err error) (lasting bool, ask time.Duration, cost int) {
	var answer *Error
	var network *NetworkError
	switch {
	case errors.As(err, &answer):
		return !answer.passing(), answer.RetryAfter, 1
	case errors.As(err, &network):
		if network.stalled {
			cost = 1 // a silent host costs a whole stall already
		}
		return network.lasting, 0, 1 + cost
	}
	return true, 0, 1
}

// sum is the error of the host that got furthest; the others' are told with it.
func (r *rotation) sum() error {
	best := 0
	for i, f := range r.faults {
		if progress(f.err) > progress(r.faults[best].err) {
			best = i
		}
	}
	if len(r.faults) == 1 {
		return r.faults[0].err
	}
	e := &hostsError{first: r.faults[best].err}
	for i, f := range r.faults {
		if i != best {
			e.others = append(e.others, f.err)
		}
	}
	return e
}

// progress ranks errors by how far a host got before it.
func progress(err error) int {
	var answer *Error
	var network *NetworkError
	switch {
	case errors.As(err, &network):
		return 0
	case !errors.As(err, &answer):
		return 4 // bytes came
	case answer.passing():
		return 1
	case answer.Status == 401, answer.Status == 403:
		return 2
	}
	return 3
}

// A hostsError is the failure of several hosts. It is of the kind of that which got furthest.
type hostsError struct {
	first  error
	others []error
}

func (e *hostsError) Error() string {
	s := e.first.Error()
	for _, other := range e.others {
		s += "; before that, " + other.Error()
	}
	return s
}

func (e *hostsError) Unwrap() error { return e.first }

// jitter spreads d over its upper half, so that clients do not come back all at once.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}
