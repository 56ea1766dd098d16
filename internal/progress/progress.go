// Package progress is what long work tells about itself: typed events, sent to a sink.
//
// Only commands draw. Work sends events and never waits for whoever looks at them.
package progress

import "sync"

// A Kind says what an [Event] reports.
type Kind string

// The kinds of events. A blob's events come in the order started, advanced…, done or failed; those of
// one that another process fetches in the order waiting, advanced…, and reused, or started if it gave up.
const (
	Resolving Kind = "resolving" // a reference is looked up; Name
	Resolved  Kind = "resolved"  // Name, Digest
	Planned   Kind = "planned"   // all is known: Total is the bytes to move, Count the blobs
	Started   Kind = "started"   // a blob is being moved; Offset is where it goes on from
	Advanced  Kind = "advanced"  // Offset of Total bytes of a blob are there
	Done      Kind = "done"      // a blob is there
	Reused    Kind = "reused"    // a blob was there already
	Fetched   Kind = "fetched"   // a blob that was not here was fetched on demand; Message says from where
	Existing  Kind = "existing"  // the target of a push or a copy has this blob already
	Mounted   Kind = "mounted"   // the target took this blob from a repository of its own; Message
	Waiting   Kind = "waiting"   // another process is fetching this blob
	Retrying  Kind = "retrying"  // a fault was met and is being got over; Message
	Flushing  Kind = "flushing"  // bytes are being made durable
	Finished  Kind = "finished"  // the whole operation is done; Name, Digest
	Examining Kind = "examining" // a store is looked through for one kind of damage; What
	Warning   Kind = "warning"   // the operation goes on, but somebody should know; Message
)

// An Event is one thing that happened. Fields that its kind does not need are zero.
type Event struct {
	Kind    Kind   `json:"event"`
	Name    string `json:"name,omitempty"`   // of the image
	Digest  string `json:"digest,omitempty"` // of the blob
	What    string `json:"what,omitempty"`   // index, manifest, config, layer
	Offset  int64  `json:"offset,omitempty"` // bytes
	Total   int64  `json:"total,omitempty"`  // bytes
	Count   int    `json:"count,omitempty"`
	Message string `json:"message,omitempty"`
}

// A Sink takes events from several goroutines at once. It must return quickly.
type Sink func(Event)

// Send sends e to s, or nowhere if s is nil.
func (s Sink) Send(e Event) {
	if s != nil {
		s(e)
	}
}

// Serial makes a sink that calls f for one event at a time.
func Serial(f func(Event)) Sink {
	var mu sync.Mutex
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		f(e)
	}
}
