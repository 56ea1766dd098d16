package metadata_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stowage/stowage/internal/kv/bolt"
	"github.com/stowage/stowage/internal/metadata"
)

// The test binary is also the process that dies.
func TestMain(m *testing.M) {
	if dir := os.Getenv("METADATA_TEST_HOLD"); dir != "" {
		os.Exit(holdAndWait(dir))
	}
	os.Exit(m.Run())
}

func holdAndWait(dir string) int {
	s, err := overBolt(dir)
	if err == nil {
		_, err = s.Hold(context.Background(), ns, desc("a").Digest)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("held")
	time.Sleep(time.Hour) // with nothing to wait for, the runtime would end it
	return 1
}

func overBolt(dir string) (*metadata.Store, error) {
	db, err := bolt.Open(filepath.Join(dir, "meta.db"), bolt.Options{NoSync: true})
	return metadata.New(db, filepath.Join(dir, "holders")), err
}

// A hold lasts as long as its process, however that ends.
func TestHolderDies(t *testing.T) {
	dir := t.TempDir()
	s, err := overBolt(dir)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, s, ns, metadata.Batch{Blobs: blobs("a")})
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), "METADATA_TEST_HOLD="+dir), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("the other process: got %q, %v", line, err)
	}
	garbage := func(when string, want int) {
		t.Helper()
		if f, err := s.Garbage(t.Context(), nil); err != nil || len(f.Blobs) != want {
			t.Errorf("garbage %s: got %v, %v, want %d", when, f, err, want)
		}
	}
	garbage("while it is held", 0)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	garbage("after its holder died", 1)
	hold, err := s.Hold(t.Context(), ns) // notices
	if err != nil {
		t.Fatal(err)
	}
	if got := holders(t, filepath.Join(dir, "holders")); len(got) != 1 {
		t.Errorf("lock files: got %v, want that of the living", got)
	}
	if err := hold.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveBlob(t.Context(), ns, desc("a").Digest, false); err != nil {
		t.Errorf("remove what the dead held: %v", err)
	}
}
