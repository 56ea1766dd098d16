package doctor

import (
	"context"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// damagedDatabase finds out whether the database opens, and has its rows. If not, nothing else can be
// looked for before it is mended.
func (e *Exam) damagedDatabase(ctx context.Context) error {
	err := e.Meta.Probe(ctx)
	if !errdefs.IsDataLoss(err) {
		return err
	}
	e.blind = true
	e.report(Finding{
		Subject: filepath.Join("metadata", "meta.db"),
		Detail:  err.Error(),
		Repair:  "move it aside, and make another of the blobs and the journal of names",
		mend: func(ctx context.Context) error {
			err := e.Rebuild(ctx)
			e.blind = err != nil
			return err
		},
	})
	return nil
}
