package layertest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The reference can be made of every case, and the names of cases are different.
func TestReference(t *testing.T) {
	var names []string
	for _, c := range Corpus() {
		names = append(names, c.Name)
		t.Run(c.Name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			Reference(t, c, dir)
			lines, err := Describe(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range lines {
				if strings.Contains(line, ".wh..") || strings.Contains(line, toolbox) {
					t.Errorf("the tree has %s", line)
				}
			}
		})
	}
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("two cases have the same name: %v", names)
	}
}

// What the reference does by hand, spelt out.
func TestReferenceByHand(t *testing.T) {
	at := func(name string) string { return timeOf(name).UTC().Format(time.RFC3339) }
	const anew = "1970-01-01T00:00:00Z"
	for name, want := range map[string][]string{
		"whiteout/folder-made-anew": {
			`"." dir 0755 0:0 ` + anew,
			`"d" dir 0700 0:0 ` + at("d"),
			`"d/new" file 0644 0:0 ` + at("d/new"),
			`"other" dir 0755 0:0 ` + at("other"),
			`"other/x" file 0644 0:0 ` + at("other/x"),
			`"top" file 0644 0:0 ` + at("top"),
		},
		"whiteout/folder-implied-anew": {
			`"." dir 0755 0:0 ` + anew,
			`"d" dir 0755 0:0 ` + anew,
			`"d/e" dir 0755 0:0 ` + anew,
			`"d/e/new" file 0644 0:0 ` + at("d/e/new"),
			`"other" dir 0755 0:0 ` + at("other"),
			`"other/x" file 0644 0:0 ` + at("other/x"),
			`"top" file 0644 0:0 ` + at("top"),
		},
		"opaque/root-after": {
			`"." dir 0711 0:0 ` + at("./"),
			`"d" dir 0755 0:0 ` + anew,
			`"d/new" file 0644 0:0 ` + at("d/new"),
			`"new" file 0644 0:0 ` + at("new"),
		},
		"through/whiteout": {
			`"." dir 0755 0:0 ` + anew,
			`"bin" link 0777 0:0 ` + at("bin"),
			`"usr" dir 0711 0:0 ` + at("usr"),
			`"usr/bin" dir 0755 5:6 ` + at("usr/bin"),
			`"usr/bin/b" file 0644 0:0 ` + at("bin/b"),
		},
		"through/to-a-missing-folder": {
			`"." dir 0755 0:0 ` + anew,
			`"lib" link 0777 0:0 ` + at("lib"),
			`"usr" dir 0755 0:0 ` + at("usr"),
			`"usr/lib" dir 0755 0:0 ` + anew,
			`"usr/lib/a" file 0644 0:0 ` + at("lib/a"),
		},
		"replaced/folders-attributes": {
			`"." dir 0755 0:0 ` + anew,
			`"d" dir 0755 0:0 ` + at("d") + " user.z=33",
			`"d/a" file 0644 0:0 ` + at("d/a"),
		},
	} {
		cases := Corpus()
		i := slices.IndexFunc(cases, func(c Case) bool { return c.Name == name })
		dir := filepath.Join(t.TempDir(), "tree")
		Reference(t, cases[i], dir)
		got, err := Describe(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range got {
			line, _, _ = strings.Cut(line, " size=")
			got[i], _, _ = strings.Cut(line, " target=")
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// Every difference between two files shows.
func TestDescribe(t *testing.T) {
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(root, "a")
	must(os.WriteFile(path, make([]byte, 3*page), 0o644))
	seen := map[string]bool{}
	for _, change := range []func() error{
		func() error { return nil },
		func() error { return os.Chmod(path, 0o600) },
		func() error { return os.Chmod(path, 0o600|os.ModeSetgid) },
		func() error { return os.Chown(path, 1, 0) },
		func() error { return os.Chown(path, 0, 1) },
		func() error { return os.Chtimes(path, time.Time{}, time.Unix(5, 0)) },
		func() error { return os.Chtimes(path, time.Time{}, time.Unix(5, 1)) },
		func() error { return os.WriteFile(path, make([]byte, 2*page), 0o644) },
		func() error { return os.Truncate(path, 3*page) },
		func() error { return unix.Setxattr(path, "user.a", []byte("1"), 0) },
		func() error { return unix.Setxattr(path, "user.a", []byte("2"), 0) },
		func() error { return os.Link(path, filepath.Join(root, "b")) },
		func() error { return os.WriteFile(path, append(make([]byte, 3*page-1), 1), 0o644) },
		func() error { return os.Remove(path) },
		func() error { return unix.Mkfifo(path, 0o644) },
		func() error { return os.Remove(path) },
		func() error { return os.Symlink("x", path) },
		func() error { return os.Remove(path) },
		func() error { return os.Symlink("y", path) },
		func() error { return os.Remove(path) },
		func() error { return unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(1, 3))) },
		func() error { return os.Remove(path) },
		func() error { return unix.Mknod(path, unix.S_IFBLK, int(unix.Mkdev(1, 3))) },
		func() error { return os.Remove(path) },
		func() error { return os.Mkdir(path, 0o755) },
	} {
		must(change())
		lines, err := Describe(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		must(err)
		whole, err := Describe(root)
		must(err)
		line := strings.Join(whole[1:], "\n") // the root's own time aside
		if seen[line] || len(lines) != 1 {
			t.Errorf("seen before: %s", line)
		}
		seen[line] = true
	}
}
