package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

// TestUsage gives every subcommand every number of arguments that it does not take, and asks each
// for help.
func TestUsage(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	call := func(args ...string) (stdout, stderr string, status int) {
		var out, errs bytes.Buffer
		status = run(append(args, "--root", root, "--config", "/dev/null"), strings.NewReader(""), &out, &errs)
		return out.String(), errs.String(), status
	}
	check := func(path []string, args ...string) {
		t.Helper()
		name := "stowage " + strings.Join(append(path, args...), " ")
		_, errs, status := call(slices.Concat(path, args)...)
		lines := strings.Split(errs, "\n")
		if status != 2 || len(lines) != 3 || !strings.HasPrefix(lines[0], "stowage: ") {
			t.Errorf("%s: status %d, want 2 and a line with a hint: %q", name, status, errs)
			return
		}
		if want := "hint: see `" + strings.Join(append([]string{"stowage"}, path...), " ") + " --help`"; lines[1] != want {
			t.Errorf("%s: got %q, want %q", name, lines[1], want)
		}
	}
	// Those that take any number.
	free := []string{"stowage image check", "stowage lease create", "stowage snapshot usage"}
	everyCommand((&app{}).command(), func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())[1:]
		out, errs, status := call(append(slices.Clone(path), "--help")...)
		if status != 0 || errs != "" || !strings.Contains(out, "Usage:\n  "+cmd.CommandPath()) {
			t.Errorf("%s --help: status %d, want 0 and its usage: %s%s", cmd.CommandPath(), status, out, errs)
		}
		if strings.Contains(cmd.Use, " ") && !strings.Contains(out, "Examples:\n  "+"stowage") {
			t.Errorf("%s --help shows no example", cmd.CommandPath())
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: Short is %q", cmd.CommandPath(), cmd.Short)
		}
		check(path, "--no-such-flag")
		if cmd.HasSubCommands() {
			check(path, "no-such-command")
			return
		}
		refused := 0
		for n := range 5 {
			args := make([]string, n)
			for i := range args {
				args[i] = fmt.Sprintf("x%d", i)
			}
			if cmd.Args(cmd, args) != nil {
				refused++
				check(path, args...)
			}
		}
		if refused == 0 && !slices.Contains(free, cmd.CommandPath()) {
			t.Errorf("%s takes any number of arguments", cmd.CommandPath())
		}
	})
}

// TestRefusals sees that what is not there, and what is in the way, have exit statuses of their own.
func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	img := r.push("app", "1", 20_000)
	r.push("other", "1", 10_000)
	name, other := r.host+"/app:1", r.host+"/other:1"
	r.must("pull", "-q", name)
	r.must("pull", "-q", other)
	layer := img.Manifest().Layers[0].Digest.String()
	missing := digest.FromString("nothing").String()
	file := filepath.Join(t.TempDir(), "x.tar")
	for _, tt := range []struct {
		status int
		want   string
		args   string
	}{
		{3, "nothing:1: not found$", "image info nothing:1"},
		{3, "nothing:1: not found$", "image inspect nothing:1"},
		{3, "nothing:1: not found$", "image check nothing:1"},
		{3, "nothing:1: not found$", "image label nothing:1 a=b"},
		{3, "nothing:1: not found$", "tag nothing:1 else:1"},
		{3, "nothing:1: not found$", "rmi nothing:1"},
		{3, "nothing:1: not found$", "rmi " + name + " nothing:1"},
		{3, "nothing:1: not found$", "export " + file + " nothing:1"},
		{3, "nothing:1: not found$", "save nothing:1"},
		{3, "abcdef012345: not found$", "image info abcdef012345"},
		{3, missing + ": not found$", "content info " + missing},
		{3, missing + ": not found$", "content get " + missing},
		{3, missing + ": not found$", "content rm " + missing},
		{3, missing + ": not found$", "content label " + missing + " a=b"},
		{3, missing + ": not found$", "content export " + file + " " + missing},
		{3, "sha256:abcdef012345: not found$", "content get sha256:abcdef012345"},
		{3, "nothing: not found$", "content abort nothing"},
		{3, "nothing: not found$", "lease rm nothing"},
		{3, "nothing: not found$", "namespace rm nothing"},
		{3, "nothing: not found$", "namespace label nothing a=b"},
		{3, "^create /nowhere/x.tar: no such file or directory$", "export /nowhere/x.tar " + name},
		{3, "/nowhere: no such file or directory$", "--config /nowhere images"},
		{1, `^blob "xyz": not a digest, or the beginning of one$`, "content get xyz"},
		{1, `^lease "\\xff": want 1 to `, "lease create --id \xff"},
		{1, `^namespace "a/b": `, "namespace create a/b"},
		{6, "app:1", "tag " + other + " " + name},
		{6, layer, "content rm " + layer},
		{6, "default", "namespace rm default"},
		{2, "team/UPPER", "pull team/UPPER"},
		{2, "team/UPPER", "tag " + name + " team/UPPER"},
		{2, "--platform plan9/x/y/z: want OS/ARCHITECTURE", "pull --platform plan9/x/y/z " + name},
		{2, "a=b", "--sync a=b images"},
	} {
		r.fails(tt.status, tt.want, strings.Fields(tt.args)...)
	}
	if out, _, status := r.run("content", "verify", missing, layer); status != 4 || !strings.Contains(out, missing+" missing\n") || !strings.Contains(out, layer+" ok\n") {
		t.Errorf("content verify: status %d, want 4 and both digests: %s", status, out)
	}
	if got := entries(t, filepath.Dir(file)); len(got) > 0 {
		t.Errorf("refused exports left %q", got)
	}
	r.named(name, other)
	r.must("image", "check", "--verify")
	r.must("tag", "--force", other, name)
	r.must("content", "rm", "--force", layer)
}
