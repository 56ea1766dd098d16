// Package imagetest makes images for tests, the demo and the benchmark: from the machine's own
// files, or quickly from seeded bytes.
//
// A [Tar] is a layer's content, [Spec.Build] compresses it and writes config and manifest, and
// [Index], [Attestation] and [Artifact] put images together. Nothing bigger than a manifest is
// held in memory when a directory is given. The same input gives the same digests.
package imagetest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// A Tar writes a layer's uncompressed tar, the same bytes each time it is called.
type Tar func(w io.Writer) error

// Seeded is a small layer of size bytes in four files, which seed alone decides. Half of the
// bytes compress well.
func Seeded(seed uint64, size int64) Tar {
	const files = 4
	return func(w io.Writer) error {
		random := rand.New(rand.NewPCG(seed, 0))
		tw := tar.NewWriter(w)
		for i := range int64(files) {
			body := make([]byte, size/files)
			if i == 0 {
				body = make([]byte, size-(files-1)*(size/files))
			}
			for j := range body[:len(body)/2] {
				body[j] = byte(random.Uint32())
			}
			header := &tar.Header{
				Name: fmt.Sprintf("seeded/%d/%d", seed, i), Mode: 0o644,
				Size: int64(len(body)), ModTime: time.Unix(1700000000, 0),
			}
			if err := tw.WriteHeader(header); err != nil {
				return err
			}
			if _, err := tw.Write(body); err != nil {
				return err
			}
		}
		return tw.Close()
	}
}

// machineDirs hold what packages install: the same on every run, and readable by everybody.
var machineDirs = []string{"/usr/bin", "/usr/lib", "/usr/share", "/usr/local"}

// maxFile bounds the files taken, so that a layer comes out near the size asked for.
const maxFile = 16 << 20

// Machine makes one layer for each size, in bytes of the files in it, from the files that are
// installed on this machine. No two layers have a file in common; where the machine has too
// few files, they are taken again under another folder.
func Machine(sizes ...int64) ([]Tar, error) {
	var total int64
	for _, size := range sizes {
		total += size + maxFile // a layer's last file may go past its size
	}
	found, err := machineFiles(total)
	if err != nil {
		return nil, fmt.Errorf("list the machine's files: %w", err)
	}
	var layers []Tar
	next := 0
	for _, size := range sizes {
		var files []file
		for total := int64(0); total < size; next++ {
			f := found[next%len(found)]
			f.name = fmt.Sprintf("round%d%s", next/len(found), f.path)
			files = append(files, f)
			total += f.size
		}
		layers = append(layers, tarOf(files))
	}
	return layers, nil
}

type file struct {
	path, name string
	size       int64
	mode       fs.FileMode
	modTime    time.Time
}

// machineFiles lists regular files, in the order of their paths, until they have size bytes.
func machineFiles(size int64) ([]file, error) {
	var files []file
	for _, dir := range machineDirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrPermission) {
				return nil // a folder of root's
			}
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			if info.Size() > 0 && info.Size() <= maxFile && info.Mode().Perm()&0o004 != 0 {
				files = append(files, file{path: path, size: info.Size(), mode: info.Mode(), modTime: info.ModTime()})
				size -= info.Size()
			}
			if size <= 0 {
				return filepath.SkipAll
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("none in %v", machineDirs)
	}
	return files, nil
}

func tarOf(files []file) Tar {
	return func(w io.Writer) error {
		tw := tar.NewWriter(w)
		for _, f := range files {
			if err := addFile(tw, f); err != nil {
				return fmt.Errorf("add %s: %w", f.path, err)
			}
		}
		return tw.Close()
	}
}

// addFile fails when the file has another size than it was listed with.
func addFile(tw *tar.Writer, f file) error {
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	header := &tar.Header{Name: f.name, Mode: int64(f.mode.Perm()), Size: f.size, ModTime: f.modTime.Truncate(time.Second)}
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(tw, in); err != nil {
		return err
	}
	return tw.Flush() // reports a file that is shorter than its header says
}
