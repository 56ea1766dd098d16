package doctor

import (
	"context"
	"fmt"
)

// overstatedImages finds images whose records say that more is here than the rows of their blobs
// do.
func (e *Exam) overstatedImages(ctx context.Context) error {
	list, err := e.Meta.Overstated(ctx)
	if err != nil {
		return err
	}
	for _, o := range list {
		detail := fmt.Sprintf("its record says %s, and it is %s", o.Says, o.Is)
		if o.Says == o.Is {
			detail = "its record says of a platform that more is there than is"
		}
		e.report(Finding{
			Subject: o.Namespace + "/" + o.Name,
			Detail:  detail,
			Repair:  "write down what is there",
			mend: func(ctx context.Context) error {
				_, err := e.Meta.Recheck(ctx, o.Namespace, o.Name, nil)
				return err
			},
		})
	}
	return nil
}
