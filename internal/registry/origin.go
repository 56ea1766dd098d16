package registry

import (
	"fmt"
	"slices"
	"sync"

	"github.com/stowage/stowage/internal/image"
)

// An origin notes which hosts the bytes of a blob came from.
type origin struct {
	c   *Client
	d   image.Descriptor
	all []*endpoint // that may be asked, in order

	mu   sync.Mutex
	from []*endpoint // in any order
}

// brought tells that a host gave bytes.
func (o *origin) brought(e *endpoint) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Contains(o.from, e) {
		o.from = append(o.from, e)
	}
}

// unblamed lists the hosts that were not blamed for the blob; all of them, if every one was.
func (o *origin) unblamed() []*endpoint {
	o.c.mu.Lock()
	defer o.c.mu.Unlock()
	blamed := o.c.blamed[o.d.Digest]
	list := slices.DeleteFunc(slices.Clone(o.all), func(e *endpoint) bool { return slices.Contains(blamed, e) })
	if len(list) == 0 {
		delete(o.c.blamed, o.d.Digest)
		return o.all
	}
	return list
}

// Blame tells that the bytes that were read are not those of the blob: err says what they are. The
// first of the hosts that they came from is not asked for it again. What is returned names that
// host; again tells whether there are others.
func (o *origin) Blame(err error) (told error, again bool) {
	o.mu.Lock()
	i := slices.IndexFunc(o.all, func(e *endpoint) bool { return slices.Contains(o.from, e) })
	o.mu.Unlock()
	if i < 0 {
		return err, false
	}
	host := o.all[i]
	o.c.mu.Lock()
	blamed := append(o.c.blamed[o.d.Digest], host)
	o.c.blamed[o.d.Digest] = blamed
	o.c.mu.Unlock()
	again = slices.ContainsFunc(o.all, func(e *endpoint) bool { return !slices.Contains(blamed, e) })
	return fmt.Errorf("%s gave wrong bytes: %w", host.URL.Host, err), again
}
