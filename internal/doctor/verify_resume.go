package doctor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/stowage/stowage/internal/content"
	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/progress"
)

// VerifyAll is [VerifyBlobs] for every blob of a store. It keeps in a file how far it came, so
// that with resume it goes on where the last run was interrupted; a run that comes to its end
// removes the file. What was damaged then, and what was touched since, is read again. What is
// not as VerifyAll writes it counts as no file; doc/formats/verify.md describes it.
func VerifyAll(ctx context.Context, store content.Store, file string, resume bool, o VerifyOptions, report func(BlobFinding)) error {
	c := &checkpoint{StartedAt: time.Now().UTC(), Again: map[image.Digest]bool{}}
	if resume {
		c = cmp.Or(readCheckpoint(file), c)
	}
	var list []content.Info
	for b, err := range store.Blobs(ctx) {
		if err != nil {
			return fmt.Errorf("list blobs: %w", err)
		}
		if c.wants(b) {
			list = append(list, b)
		}
	}
	kept, warned := time.Now(), false
	keep := func() {
		kept = time.Now()
		if err := c.write(file); err != nil && !warned {
			warned = true
			o.Progress.Send(progress.Event{Kind: progress.Warning, Message: fmt.Sprintf("this run cannot be resumed: %v", err)})
		}
	}
	o.begun = c.begin
	err := VerifyBlobs(ctx, store, list, o, func(f BlobFinding) {
		c.end(f)
		if time.Since(kept) >= keepEvery {
			keep()
		}
		if f.Verdict != Missing { // it was there when it was listed: a collection took it
			report(f)
		}
	})
	if err != nil {
		keep()
		return err
	}
	err = os.Remove(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return nil // where nothing can be written, nothing was
	}
	return err
}

// keepEvery is how much of a run is lost when its process is killed.
const keepEvery = 5 * time.Second

// A checkpoint says how far a run of [VerifyAll] came.
type checkpoint struct {
	StartedAt time.Time `json:"startedAt"`
	// Size and Digest are of the last blob that was begun. All that come before it in the order
	// of reading were begun, too.
	Size   int64        `json:"size"`
	Digest image.Digest `json:"digest,omitempty"` // empty: none
	// Again are those begun that were not found in order: they were being read, or are damaged.
	Again map[image.Digest]bool `json:"again"`
}

// changeSlack makes up for the clock of file times, which ticks a few times a second.
const changeSlack = time.Second

// wants tells whether a run that goes on from c reads b.
func (c *checkpoint) wants(b content.Info) bool {
	return c.after(b) || c.Again[b.Digest] || !b.ChangedAt.Before(c.StartedAt.Add(-changeSlack))
}

// after tells whether b comes after all that were begun.
func (c *checkpoint) after(b content.Info) bool {
	return c.Digest == "" || inOrder(b, content.Info{Digest: c.Digest, Size: c.Size}) > 0
}

// begin notes that b is being read.
func (c *checkpoint) begin(b content.Info) {
	if c.after(b) {
		c.Size, c.Digest = b.Size, b.Digest
	}
	c.Again[b.Digest] = true
}

// end notes what was found of a blob. One that is missing is new if it comes back.
func (c *checkpoint) end(f BlobFinding) {
	if f.Verdict != Corrupt {
		delete(c.Again, f.Digest)
	}
}

const (
	checkpointMagic = "stowage verify 1 " // and the sha256 of the rest in hex, and a newline
	checkpointHead  = len(checkpointMagic) + 2*sha256.Size + 1
	// maxAgain bounds what is written: a store with so much damage is read from the start.
	maxAgain = 10_000
	// maxCheckpoint bounds what is read: maxAgain of the longest digests, and what is around them.
	maxCheckpoint = maxAgain*160 + 1<<10
)

func (c *checkpoint) encode() ([]byte, error) {
	if len(c.Again) > maxAgain {
		return nil, fmt.Errorf("%d blobs are damaged", len(c.Again))
	}
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s%x\n%s", checkpointMagic, sha256.Sum256(body), body), nil
}

// decodeCheckpoint parses what encode gives; nil for anything else.
func decodeCheckpoint(p []byte) *checkpoint {
	if len(p) < checkpointHead || len(p) > maxCheckpoint {
		return nil
	}
	body := p[checkpointHead:]
	if !bytes.Equal(p[:checkpointHead], fmt.Appendf(nil, "%s%x\n", checkpointMagic, sha256.Sum256(body))) {
		return nil
	}
	c := &checkpoint{}
	if json.Unmarshal(body, c) != nil || c.Again == nil || c.Size < 0 {
		return nil
	}
	for _, d := range append(slices.Collect(maps.Keys(c.Again)), c.Digest) {
		if d != "" && content.Validate(d) != nil {
			return nil
		}
	}
	return c
}

// readCheckpoint reads a file; nil if it is not there or of no use.
func readCheckpoint(file string) *checkpoint {
	info, err := os.Lstat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxCheckpoint {
		return nil
	}
	p, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return decodeCheckpoint(p)
}

// write puts c in the place of the file. It is not synced: a power loss takes the file, or leaves
// one that is of no use.
func (c *checkpoint) write(file string) error {
	p, err := c.encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", p, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
