package main

import (
	"context"
	"path/filepath"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stowage/stowage"
	"github.com/stowage/stowage/internal/kv"
	"github.com/stowage/stowage/internal/kv/bolt"
)

// cmdSnapshot finds the snapshot of the nth layer of the image that is unpacked.
func cmdSnapshot(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: snapshot SNAPSHOTTER N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	s, err := stowage.Open(ts.Getenv("STOWAGE_ROOT"), stowage.Options{})
	ts.Check(err)
	sn, err := s.Snapshotter(args[0])
	ts.Check(err)
	rows, err := sn.Walk(context.Background())
	ts.Check(err)
	above := map[string]stowage.Snapshot{}
	for _, row := range rows {
		above[row.Parent] = row
	}
	row := above[""]
	for range n {
		row = above[row.Key]
	}
	if row.Key == "" {
		ts.Fatalf("%s has no snapshot of layer %d", args[0], n)
	}
	ts.Setenv("SNAPSHOT", row.Key)
	ts.Setenv("FOLDER", sn.Path(row.Folder))
	ts.Check(s.Close())
}

// cmdForget takes the row of a snapshot out of the database.
func cmdForget(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: forget SNAPSHOTTER KEY")
	}
	db, err := bolt.Open(filepath.Join(ts.Getenv("STOWAGE_ROOT"), "metadata", "meta.db"), bolt.Options{})
	ts.Check(err)
	ts.Check(db.Update(context.Background(), func(w kv.Writer) error {
		return w.Delete([]byte("s/default\x00" + args[0] + "\x00" + args[1]))
	}))
	ts.Check(db.Close())
}
