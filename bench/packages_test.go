package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Packages that share folders make one layer: each folder once, nothing for the root, and no name
// that begins with a dot.
func TestCopyEntries(t *testing.T) {
	dir := func(name string) *tar.Header { return &tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
	packages := [][]*tar.Header{
		{dir("./"), dir("./usr/"), dir("./usr/bin/"), {Name: "./usr/bin/one", Mode: 0o755, Size: 3}},
		{
			dir("./"), dir("./usr/"), dir("./usr/bin/"),
			{Name: "./usr/bin/two", Typeflag: tar.TypeLink, Linkname: "./usr/bin/one"},
			{Name: "./usr/bin/three", Typeflag: tar.TypeSymlink, Linkname: "./one"},
		},
	}
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	seen := map[string]bool{"": true}
	for _, headers := range packages {
		var one bytes.Buffer
		w := tar.NewWriter(&one)
		for _, header := range headers {
			if err := w.WriteHeader(header); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(make([]byte, header.Size)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := copyEntries(out, tar.NewReader(&one), seen); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&layer); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, header.Name+" "+header.Linkname)
	}
	want := []string{"usr/ ", "usr/bin/ ", "usr/bin/one ", "usr/bin/two usr/bin/one", "usr/bin/three ./one"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A package that is there is not downloaded; g++ is not gcc.
func TestPackageFile(t *testing.T) {
	dir := t.TempDir()
	want := filepath.Join(dir, "g++_4%3a12.2.0-3_amd64.deb")
	for _, file := range []string{want, filepath.Join(dir, "g++-12_12.2.0-14_amd64.deb")} {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := packageFile(dir, "g++"); got != want || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if got, err := packageFile(dir, "gcc"); got != "" || err != nil {
		t.Errorf("got %q, %v; want none", got, err)
	}
}

// The packages of an image are in one layer only: a layer on top that has the same files would be
// work that no real image makes.
func TestLayersOf(t *testing.T) {
	for _, name := range []string{appImage, zstdImage, largeImage, metaImage, filesImage} {
		all := slices.Concat(layersOf(name)...)
		slices.Sort(all)
		if len(all) == 0 || len(slices.Compact(slices.Clone(all))) != len(all) {
			t.Errorf("packages of %s: %v", name, all)
		}
	}
}
