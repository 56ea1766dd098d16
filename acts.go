package stowage

import "time"

// The kinds of acts.
const (
	PullAct    = "pull"
	PushAct    = "push"
	ImportAct  = "import"
	ExportAct  = "export"
	CollectAct = "collect"
	ExamineAct = "examine"
)

// An Act is a transfer, a collection or an examination that has ended.
type Act struct {
	Kind string
	Err  error // nil: it did what was asked
	Took time.Duration

	Moved  Count // blobs that a transfer brought to where it goes
	Reused Count // blobs that were there already

	Collected *PruneReport // what a collection took away
	Findings  []Finding    // of an examination
}

// ended tells whoever wants to know of an act that began at some time.
func (s *Store) ended(began time.Time, a Act) {
	if s.tell == nil {
		return
	}
	a.Took = time.Since(began)
	s.tell(a)
}
