package doctor

import (
	"context"
	"maps"
	"slices"
	"time"
)

// expiredLeases finds leases whose time is over, and holds of processes that died.
func (e *Exam) expiredLeases(ctx context.Context) error {
	dead, err := e.Meta.DeadLeases(ctx)
	if err != nil {
		return err
	}
	for _, ns := range slices.Sorted(maps.Keys(dead)) {
		for _, l := range dead[ns] {
			detail := "it expired at " + l.ExpiresAt.UTC().Format(time.RFC3339)
			if l.Holder != "" {
				detail = "the operation that held it died"
			}
			e.report(Finding{Subject: ns + "/" + l.ID, Detail: detail, Repair: "remove it", mend: e.Meta.DropDeadLeases})
		}
	}
	return nil
}
