package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

// The goal holds while memory is enough, and is given up when it is not.
func TestMemoryGoal(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	runtime.GC()
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	goal := 4*int64(now.HeapAlloc) + 64<<20
	aimAtMemory(goal)
	limit := func() int64 { return debug.SetMemoryLimit(-1) }
	for range 10 {
		runtime.GC()
		runtime.Gosched()
	}
	if limit() != goal {
		t.Errorf("the limit is %d, want %d", limit(), goal)
	}
	held := make([]byte, goal)
	for range 1000 { // until the collector has called back
		if limit() == math.MaxInt64 {
			break
		}
		runtime.GC()
		runtime.Gosched()
	}
	if limit() != math.MaxInt64 {
		t.Errorf("with %d bytes in use the limit is %d, want none", len(held), limit())
	}
	runtime.KeepAlive(held)
}
