package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The memory that counts is that of the process, not of the bench that forked it.
func TestPeak(t *testing.T) {
	ballast := bytes.Repeat([]byte{1}, 64<<20)
	s, err := runProcess(t.Context(), []string{"sleep", "0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if s.peak == 0 || s.peak > int64(len(ballast))/2 {
		t.Errorf("peak of sleep is %d bytes", s.peak)
	}
	if _, err := runProcess(t.Context(), []string{"sh", "-c", "echo why >&2; exit 3"}); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a failing command: %v", err)
	}
}

// Children count, and theirs: here a sleep below two shells, of which the inner one, a copy of the
// outer, does not count.
func TestPeakOfChildren(t *testing.T) {
	cmd := exec.Command("sh", "-c", "(sleep 1; true) & wait; true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Programs do not run, or not long enough to have some memory, at once.
	const least, most = 100 << 10, 64 << 20
	var got int64
	for deadline := time.Now().Add(10 * time.Second); got < least && time.Now().Before(deadline); {
		got = descendants(cmd.Process.Pid)
	}
	if got < least || got > most {
		t.Errorf("children have %d bytes", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
