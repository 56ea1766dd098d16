package main

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The Debian package has the program, which runs, units that start it, a manual page for each command, and
// completions.
func TestDeb(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	deb, tree := filepath.Join(dir, "stowage.deb"), filepath.Join(dir, "tree")
	run("../../contrib/deb/build", r.bin, "v1.2.3-4-gabcdef", deb)
	if got := run("dpkg-deb", "-f", deb, "Package", "Version"); got != "Package: stowage\nVersion: 1.2.3-4-gabcdef\n" {
		t.Errorf("the package is %s", got)
	}
	run("dpkg-deb", "-x", deb, tree)
	installed := filepath.Join(tree, "usr/bin/stowage")
	if out := run(installed, "version"); !strings.HasPrefix(out, "stowage ") {
		t.Errorf("version: %s", out)
	}
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(tree, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if unit := read("usr/lib/systemd/system/stowage.service"); !strings.Contains(unit, "\nExecStart=/usr/bin/stowage serve\n") || !strings.Contains(unit, "\nType=notify\n") {
		t.Errorf("the service:\n%s", unit)
	}
	if unit := read("usr/lib/systemd/system/stowage.socket"); !strings.Contains(unit, "\nListenStream=/run/stowage/stowage.sock\n") || !strings.Contains(unit, "\nSocketMode=0660\n") {
		t.Errorf("the socket:\n%s", unit)
	}
	for name, want := range map[string]string{
		"usr/share/bash-completion/completions/stowage":    "__start_stowage",
		"usr/share/zsh/vendor-completions/_stowage":        "#compdef stowage",
		"usr/share/fish/vendor_completions.d/stowage.fish": "complete -c stowage",
		"usr/share/doc/stowage/doc/daemon.md":              "# The daemon",
		"usr/share/doc/stowage/copyright":                  "License",
	} {
		if got := read(name); !strings.Contains(got, want) {
			t.Errorf("%s has no %q", name, want)
		}
	}
	page := manualPage(t, filepath.Join(tree, "usr/share/man/man1/stowage-image-pull.1.gz"))
	for _, want := range []string{"\n.SH SYNOPSIS\n.B stowage image pull REF [flags]\n", "\n.B \\-\\-platform stringArray\n", "\n.SH OPTIONS OF EVERY COMMAND\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("the manual page has no %q:\n%s", want, page)
		}
	}
	if _, err := os.Stat(filepath.Join(tree, "usr/share/man/man1/stowage-man.1.gz")); !os.IsNotExist(err) {
		t.Errorf("a manual page of a hidden command: %v", err)
	}
}

func manualPage(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRoff(t *testing.T) {
	for text, want := range map[string]string{
		`a\b --c`:          `a\eb \-\-c`,
		".hidden\n'quoted": "\\&.hidden\n\\&'quoted",
		"a.b it's":         "a.b it's",
	} {
		if got := roff(text); got != want {
			t.Errorf("roff(%q) = %q, want %q", text, got, want)
		}
	}
}
