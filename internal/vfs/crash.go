package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// AfterCrash returns the disk as a power loss at this moment would leave it if nothing survived
// but what was synced. It has another BootID and no locks; d stays as it is.
func (d *Mem) AfterCrash() *Mem { return d.AfterCrashSeed(0) }

// AfterCrashSeed is [Mem.AfterCrash] in one of many flavours, since a disk may keep more than it
// must. With seed 0 nothing unsynced survives. With seed 1 every name and size does, but no
// unsynced data: it reads as zeros. Any other seed keeps or drops each unsynced name, size,
// permission and page of data by chance, each independently of the others.
func (d *Mem) AfterCrashSeed(seed uint64) *Mem {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := crash{copies: map[*node]*node{}}
	switch seed {
	case 0:
		c.keepMeta = func() bool { return false }
		c.keepPage = c.keepMeta
	case 1:
		c.keepMeta = func() bool { return true }
		c.keepPage = func() bool { return false }
	default:
		r := rand.New(rand.NewPCG(seed, seed))
		c.keepMeta = func() bool { return r.IntN(2) == 0 }
		c.keepPage = c.keepMeta
	}
	return &Mem{boot: d.boot + 1, root: c.survive(d.root)}
}

// crashPage is the size of what is kept or dropped as one. Small, so that small blobs tear too.
const crashPage = 512

type crash struct {
	keepMeta, keepPage func() bool
	copies             map[*node]*node // a file that has two names stays one file
}

func (c *crash) survive(n *node) *node {
	if done := c.copies[n]; done != nil {
		return done
	}
	out := &node{dir: n.dir, mtime: n.mtime, dirty: true}
	c.copies[n] = out
	out.now.perm = n.disk.perm
	if c.keepMeta() {
		out.now.perm = n.now.perm
	}
	if n.dir {
		out.now.names = c.names(n)
	} else {
		out.now.data = c.data(n)
	}
	out.sync()
	return out
}

func (c *crash) names(n *node) map[string]*node {
	all := maps.Clone(n.now.names)
	maps.Copy(all, n.disk.names)
	names := map[string]*node{}
	for _, name := range slices.Sorted(maps.Keys(all)) { // in order, so that a seed repeats
		child := n.disk.names[name]
		if now := n.now.names[name]; now != child && c.keepMeta() {
			child = now
		}
		if child != nil {
			names[name] = c.survive(child)
		}
	}
	return names
}

func (c *crash) data(n *node) []byte {
	now, disk := n.now.data, n.disk.data
	size := len(disk)
	if c.keepMeta() {
		size = len(now)
	}
	data := make([]byte, size)
	copy(data, disk)
	if !n.dirty {
		return data
	}
	for at := 0; at < size; at += crashPage {
		if end := min(at+crashPage, size); c.keepPage() && at < len(now) {
			clear(data[at:end])
			copy(data[at:end], now[at:min(end, len(now))])
		}
	}
	return data
}
