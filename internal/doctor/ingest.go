package doctor

import (
	"context"
	"fmt"
	"time"
)

// staleIngests finds blobs that were begun, are not whole, and that nobody went on with for the
// time of grace.
func (e *Exam) staleIngests(ctx context.Context) error {
	list, err := e.Content.Ingests(ctx)
	if err != nil {
		return err
	}
	for _, in := range list {
		if in.Busy || time.Since(in.UpdatedAt) < e.grace() {
			continue
		}
		e.report(Finding{
			Subject: in.Key,
			Detail:  fmt.Sprintf("%d bytes of a blob that nobody has written to since %s", in.Offset, in.UpdatedAt.UTC().Format(time.RFC3339)),
			Repair:  "throw them away",
			mend:    func(ctx context.Context) error { return e.Content.Abort(ctx, in.Key) },
		})
	}
	return nil
}
