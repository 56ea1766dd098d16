package containerd

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/errdefs"
)

// leaseTime is when the peer ends a lease by itself, should this process die with it.
const leaseTime = 24 * time.Hour

const expireLabel = "containerd.io/gc.expire"

// Act begins an operation that may write; what it returns ends it. From its first write on, what is
// written until the last of those under way has ended is under one lease.
func (c *Client) Act() (end func(context.Context) error) {
	c.mu.Lock()
	c.acts++
	c.mu.Unlock()
	return func(ctx context.Context) error {
		c.mu.Lock()
		c.acts--
		last := c.acts == 0
		c.mu.Unlock()
		if !last {
			return nil
		}
		return c.dropLease(context.WithoutCancel(ctx))
	}
}

// underLease sees to it that there is a lease, which requests then carry.
func (c *Client) underLease(ctx context.Context) error {
	c.mu.Lock()
	has := c.lease != ""
	c.mu.Unlock()
	if has {
		return nil
	}
	id := "stowage-" + rand.Text()
	_, err := leasesapi.NewLeasesClient(c.conn).Create(ctx, &leasesapi.CreateRequest{
		ID: id, Labels: map[string]string{expireLabel: time.Now().Add(leaseTime).UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return fmt.Errorf("create lease: %w", native(err))
	}
	c.mu.Lock()
	if c.lease == "" {
		c.lease, id = id, ""
	}
	c.mu.Unlock()
	if id != "" { // another goroutine was quicker
		return c.deleteLease(ctx, id, false)
	}
	return nil
}

// underAct is underLease where there is an act: what is made by hand outside of any stays by itself.
func (c *Client) underAct(ctx context.Context) error {
	c.mu.Lock()
	acts := c.acts
	c.mu.Unlock()
	if acts == 0 {
		return nil
	}
	return c.underLease(ctx)
}

// dropLease ends the lease of the acts, if there is one.
func (c *Client) dropLease(ctx context.Context) error {
	c.mu.Lock()
	id := c.lease
	c.lease = ""
	c.mu.Unlock()
	if id == "" {
		return nil
	}
	return c.deleteLease(ctx, id, false)
}

// deleteLease ends a lease; with collect the peer collects before it answers.
func (c *Client) deleteLease(ctx context.Context, id string, collect bool) error {
	_, err := leasesapi.NewLeasesClient(c.conn).Delete(ctx, &leasesapi.DeleteRequest{ID: id, Sync: collect})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete lease %s: %w", id, err)
	}
	return nil
}

// Collect has the peer collect, in all of its namespaces, and waits for the end of that.
func (c *Client) Collect(ctx context.Context) error {
	id := "stowage-" + rand.Text()
	_, err := leasesapi.NewLeasesClient(c.conn).Create(ctx, &leasesapi.CreateRequest{ID: id})
	if err != nil {
		return fmt.Errorf("collect: %w", native(err))
	}
	if err := c.deleteLease(ctx, id, true); err != nil {
		return fmt.Errorf("collect: %w", err)
	}
	return nil
}
