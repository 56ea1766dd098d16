package vfs

import (
	"context"
	"io/fs"
	"time"
)

// A waiter looks again after firstWait, then twice that, up to lastWait: a lock given back by a
// small blob is seen at once, and one held for minutes costs fifty looks a second.
const (
	firstWait = time.Millisecond
	lastWait  = 20 * time.Millisecond
)

// lock tries until it succeeds or ctx ends. The kernel would wait for us, but not for ctx too.
func lock(ctx context.Context, name string, try func() (bool, error)) error {
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		if ok, err := try(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return &fs.PathError{Op: "lock", Path: name, Err: context.Cause(ctx)}
		case <-time.After(wait):
		}
	}
}
