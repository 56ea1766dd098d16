// Command stowage keeps container images: it pulls them from registries into a store, lists,
// checks, exports and imports them.
//
// One file is one subcommand. This is the only place that reads flags, draws on terminals and
// turns errors into exit statuses.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// memoryGoal is from where the runtime collects more eagerly instead of growing its heap. Most
// commands need a fifth of it; imports of thousands of images come near it.
const memoryGoal = 48 << 20

// aimAtMemory sets the goal, and gives it up when what is in use comes near it: the runtime would do
// little else than collect. Lists of 500,000 blobs took five times as long.
func aimAtMemory(goal int64) {
	debug.SetMemoryLimit(goal)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var look func(int)
	look = func(int) {
		if metrics.Read(live); live[0].Value.Uint64() > uint64(goal)*2/3 {
			debug.SetMemoryLimit(math.MaxInt64)
			return
		}
		runtime.AddCleanup(new([4]int), look, 0) // when the next collection has found it unused
	}
	look(0)
}

// run is the whole command; tests call it in place of the binary.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	aimAtMemory(memoryGoal)
	// A reader that goes away must be an error that names what was cut short, not a silent death.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		// The second interrupt kills: whoever presses twice does not want to wait.
		<-ctx.Done()
		stop()
	}()

	out := newResults(stdout)
	a := &app{in: stdin, out: out, err: stderr}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	err = errors.Join(err, a.close())
	_ = out.flush() // out remembers
	if err == nil && out.err != nil {
		err = fmt.Errorf("write results: %w", out.err)
	}
	if err == nil {
		return 0
	}
	status := exitStatus(ctx, err)
	if errors.Is(err, syscall.EPIPE) && !a.streams {
		return status // whoever read the list, such as head, has seen enough
	}
	if !errors.Is(err, errReported) {
		text := oneLine(err)
		if status == exitInterrupted {
			text = strings.ReplaceAll(text, context.Canceled.Error(), "interrupted")
		}
		fmt.Fprintf(stderr, "stowage: %s\n", text)
		if hint := a.hint(ctx, err); hint != "" {
			fmt.Fprintf(stderr, "hint: %s\n", hint)
		}
	}
	return status
}

// The exit statuses that scripts rely on.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDamage      = 4
	exitUnreachable = 5
	exitRefused     = 6
	exitInterrupted = 130
)

// errReported marks an outcome that standard output has told in full already.
var errReported = errors.New("reported")

// errNotWhole is the outcome of a check that found damage or gaps.
var errNotWhole = fmt.Errorf("not everything is in order: %w", errdefs.ErrDataLoss)

// A usageError is a mistake in how the command was typed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// A hinted error knows what to do next.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// exitStatus is the one table from kinds of errors to exit statuses.
func exitStatus(ctx context.Context, err error) int {
	var usage usageError
	var missing *stowage.MissingError
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &missing), errors.Is(err, errdefs.ErrDataLoss):
		return exitDamage
	case errdefs.IsNotFound(err), errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	case errdefs.IsUnavailable(err), errdefs.IsDeadlineExceeded(err),
		errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err): // by a registry
		return exitUnreachable
	case errdefs.IsAlreadyExists(err), errdefs.IsFailedPrecondition(err):
		return exitRefused
	}
	return exitFailed
}

// silent are the kinds of errors whose own words say less than the sentence before them.
var silent = []error{
	errdefs.ErrInvalidArgument, errdefs.ErrDataLoss, errdefs.ErrUnavailable,
	errdefs.ErrFailedPrecondition, errdefs.ErrNotImplemented, errdefs.ErrOutOfRange,
}

// oneLine folds joined errors into the one line that an error is, each without its kind. What stops
// the work, such as a full disk, often stops the cleaning up as well: that is told once.
func oneLine(err error) string {
	var told []string
	var system syscall.Errno
	ofSystem := errors.As(err, &system)
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimSuffix(line, "\n")
		for _, kind := range silent {
			if rest, ok := strings.CutSuffix(line, ": "+kind.Error()); ok && errors.Is(err, kind) && strings.Contains(rest, ": ") {
				line = rest
			}
		}
		again := slices.ContainsFunc(told, func(before string) bool {
			return strings.HasSuffix(before, line) ||
				ofSystem && strings.HasSuffix(before, system.Error()) && strings.HasSuffix(line, system.Error())
		})
		if !again {
			told = append(told, line)
		}
	}
	return strings.Join(told, "; ")
}

// hint says what to do next, where that is known.
func (a *app) hint(ctx context.Context, err error) string {
	var known hinted
	var usage usageError
	var missing *stowage.MissingError
	var partial *stowage.PartialError
	var lost *stowage.LostError
	switch {
	case errors.As(err, &known):
		return known.hint
	case ctx.Err() != nil && a.runs("push", "copy"):
		return "what is whole at the target is kept; the same command goes on from there"
	case ctx.Err() != nil:
		return "what was fetched is kept; the same command goes on from there"
	case errors.As(err, &usage):
		return "see `" + a.ran + " --help`"
	case errors.As(err, &lost) && !errors.As(err, &missing):
		return "try again when it can be reached; `stowage content import ARCHIVE` takes what is missing from an archive that has it"
	case errors.As(err, &lost):
		return "`stowage content import ARCHIVE` takes what is missing from an archive that has it"
	case errors.As(err, &partial):
		return "`--platform P` moves the platforms that are whole, and `stowage pull --all-platforms " + partial.Name + "` gets the others"
	case errors.As(err, &missing) && a.runs("push"):
		return "`" + a.ran + " --fetch-missing` gets what is missing from the registry that the name points to"
	case errors.As(err, &missing) && !a.runs("import", "load"):
		return "`stowage export --fetch-missing` or `stowage pull " + missing.Name + "` gets what is missing"
	case errors.Is(err, syscall.ENOSPC) && (a.ofStore(err) || a.fillsStore()):
		return "the disk is full; `stowage content prune` frees what nothing refers to, and the same command then goes on from where it was"
	case errors.Is(err, syscall.EROFS) && a.ofStore(err):
		return "the store is on a read-only filesystem; choose another with --root"
	case errors.Is(err, syscall.EACCES) && a.ofStore(err):
		return "choose a store of your own with --root or STOWAGE_ROOT"
	case errdefs.IsDataLoss(err) && a.conf != nil && a.ofDatabase(err):
		return "`stowage doctor --repair` makes another of the blobs and the journal of names"
	case errdefs.IsUnauthorized(err):
		return "give credentials with -u USER[:PASS], or log in with `stowage login`, docker or podman"
	}
	return ""
}

// fillsStore tells whether the store is all that the command writes to.
func (a *app) fillsStore() bool { return a.runs("pull", "import", "load", "mount") }

// runs tells whether the command is one of these, or the short form of one.
func (a *app) runs(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(a.ran, " "+name) })
}

// ofDatabase tells whether err is about the database of the store.
func (a *app) ofDatabase(err error) bool {
	return strings.Contains(err.Error(), "database "+filepath.Join(a.conf.Root, "metadata", "meta.db")) ||
		strings.Contains(err.Error(), "the database is empty")
}

// ofStore tells whether err is about a file of the store, or a folder above it.
func (a *app) ofStore(err error) bool {
	var file *fs.PathError
	if a.conf == nil || !errors.As(err, &file) {
		return false
	}
	root, rootErr := filepath.Abs(a.conf.Root)
	return rootErr == nil && (strings.HasPrefix(file.Path+"/", root+"/") || strings.HasPrefix(root+"/", file.Path+"/"))
}
