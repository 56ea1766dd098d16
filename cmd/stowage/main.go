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
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole command; tests call it in place of the binary.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// A reader that goes away must be an error that names what was cut short, not a silent death.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		// The second interrupt kills: whoever presses twice does not want to wait.
		<-ctx.Done()
		stop()
	}()

	out := &results{w: stdout}
	a := &app{in: stdin, out: out, err: stderr}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	err = errors.Join(err, a.close())
	if err == nil && out.err != nil {
		err = fmt.Errorf("write results: %w", out.err)
	}
	if err == nil {
		return 0
	}
	status := exitStatus(ctx, err)
	if !errors.Is(err, errReported) {
		fmt.Fprintf(stderr, "stowage: %s\n", oneLine(err))
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
	case errdefs.IsNotFound(err):
		return exitNotFound
	case errdefs.IsUnavailable(err), errdefs.IsUnauthorized(err), errdefs.IsDeadlineExceeded(err):
		return exitUnreachable
	case errdefs.IsAlreadyExists(err), errdefs.IsFailedPrecondition(err), errdefs.IsPermissionDenied(err):
		return exitRefused
	}
	return exitFailed
}

// oneLine folds joined errors into the one line that an error is.
func oneLine(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' })
	return strings.Join(lines, "; ")
}

// hint says what to do next, where that is known.
func (a *app) hint(ctx context.Context, err error) string {
	var usage usageError
	var missing *stowage.MissingError
	switch {
	case ctx.Err() != nil:
		return "what was fetched is kept; the same command goes on from there"
	case errors.As(err, &usage):
		return "see `" + a.ran + " --help`"
	case errors.As(err, &missing):
		return "`stowage export --fetch-missing` or `stowage pull " + missing.Name + "` gets what is missing"
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full; `stowage content prune` frees what nothing refers to, and the same command then goes on from where it was"
	case errors.Is(err, syscall.EROFS):
		return "the store is on a read-only filesystem; choose another with --root"
	case errors.Is(err, syscall.EACCES):
		return "choose a store that you may write with --root or STOWAGE_ROOT"
	case errdefs.IsUnauthorized(err):
		return "give credentials with -u USER[:PASS], or log in with docker, podman or skopeo"
	}
	return ""
}
