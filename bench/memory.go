package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// How often memory is looked at. A process keeps its own account of the most it had, so the last
// look before its end counts; children are many files to read, and are looked for less often.
const (
	lookTick     = 2 * time.Millisecond
	childrenTick = 20 * time.Millisecond
)

// watchPeak follows the most memory that processes and their descendants had together: the sum of
// what each of those alive had at most. The kernel's account at the end of a child (ru_maxrss)
// would do for one process, if it did not begin with the memory of the parent that forked it.
func watchPeak(pids []int, ended <-chan struct{}) int64 {
	tick := time.NewTicker(lookTick)
	defer tick.Stop()
	var peak, children int64
	var looked time.Time
	for {
		if time.Since(looked) >= childrenTick {
			children = 0
			for _, pid := range pids {
				children += descendants(pid)
			}
			looked = time.Now()
		}
		total := children
		for _, pid := range pids {
			total += highWater(pid)
		}
		peak = max(peak, total)
		select {
		case <-ended:
			return peak
		case <-tick.C:
		}
	}
}

// descendants sums the high water of all processes below one. Between fork and exec, a child has
// the memory and the command line of its parent, and is not counted.
func descendants(pid int) (sum int64) {
	parent := procFile(pid, "cmdline")
	lists, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children") // the pattern is sound
	for _, list := range lists {
		text, _ := os.ReadFile(list) // none once the thread has ended
		for _, word := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				continue
			}
			if !bytes.Equal(procFile(child, "cmdline"), parent) {
				sum += highWater(child)
			}
			sum += descendants(child)
		}
	}
	return sum
}

// highWater reads VmHWM in bytes; zero once the process has ended.
func highWater(pid int) int64 {
	_, after, _ := strings.Cut(string(procFile(pid, "status")), "VmHWM:")
	line, _, _ := strings.Cut(after, "\n")
	kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	return kib << 10
}

// procFile is what the kernel says of a process; nothing once it has ended.
func procFile(pid int, name string) []byte {
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	return text
}
