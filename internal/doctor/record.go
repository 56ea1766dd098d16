package doctor

import (
	"context"
	"sync"
)

// damagedRecords finds rows that cannot be read.
func (e *Exam) damagedRecords(ctx context.Context) error {
	list, err := e.Meta.Damaged(ctx)
	if err != nil {
		return err
	}
	for _, f := range list {
		e.report(Finding{
			Subject: f.Subject, Detail: f.Detail, Repair: "write it anew from what is beside it, or remove it",
			mend: func(ctx context.Context) error { return e.Meta.MendRecord(ctx, f, e.Content) },
		})
	}
	return nil
}

// danglingEdges finds rows that lead nowhere, or that are not where others should be led by them.
func (e *Exam) danglingEdges(ctx context.Context) error {
	list, err := e.Meta.Dangling(ctx)
	if err != nil {
		return err
	}
	mend := sync.OnceValue(func() error { return e.Meta.MendDangling(ctx, e.Content) }) // all of them
	met := map[string]bool{}
	for _, f := range list {
		if met[f.Subject] {
			continue
		}
		met[f.Subject] = true
		e.report(Finding{
			Subject: f.Subject, Detail: f.Detail, Repair: "make edges anew from the records",
			mend: func(context.Context) error { return mend() },
		})
	}
	return nil
}
