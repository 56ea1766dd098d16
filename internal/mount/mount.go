// Package mount makes, lists and takes away mounts, and finds out which kinds of mount work on a
// filesystem.
//
// It owns the dealings with the kernel: the calls that each kernel has, the limits of their
// arguments, loop devices, and what a user namespace forbids. It knows nothing of images and
// snapshots; which mounts to make is for its callers to say.
//
// All mounts are made in the mount namespace of the process, so that whoever started it sees them.
// A mount is put together out of sight and attached when it is whole, where the kernel allows it:
// nobody sees a bind that is to be read-only while it is still writable.
package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Mount is one mount to be made, in containerd's terms.
type Mount struct {
	// Type is "bind", "overlay" or "erofs".
	Type string
	// Source is what is bound, or the image file of an erofs. Overlay has none and shows what
	// stands here, "overlay" by custom.
	Source string
	// Target is a folder or file beneath the target of all; usually it is empty. Symbolic links
	// on the way are followed beneath the target of all and never out of it.
	Target string
	// Options are given one by one, written as mount(8) takes them after -o: flags ("ro",
	// "nosuid", "rbind") and those of the filesystem ("index=off"). [Dirs] writes options of
	// folders, which overlay wants with escapes. A further device of an erofs is
	// "device=FILE", which has no escapes.
	Options []string
}

// Command is the line for mount(8) that makes the mount at target, quoted for a shell where
// that is needed.
func (m Mount) Command(target string) string {
	words := []string{"mount", "-t", m.Type, m.Source, filepath.Join(target, m.Target)}
	if len(m.Options) > 0 {
		words = append(words, "-o", strings.Join(m.Options, ","))
	}
	for i, word := range words {
		words[i] = quote(word)
	}
	return strings.Join(words, " ")
}

// quote makes a word that a shell reads as it is.
func quote(word string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			strings.ContainsRune("%+,-./:=@_", c)
	}
	if word != "" && !strings.ContainsFunc(word, func(c rune) bool { return !plain(c) }) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// A route holds what is done otherwise than this kernel allows, so that tests can walk the ways
// of kernels that allow less. The zero value takes the best way there is.
type route struct {
	old   bool // mount(2) alone
	loops bool // erofs on loop devices
}

// All makes the mounts, in their order, beneath target, which must exist. When one of them cannot
// be made, those before it are taken away again.
//
// Errors: [errdefs.ErrInvalidArgument] for options that are wrong in themselves or refused by the
// kernel, which is then quoted; [errdefs.ErrNotFound] for a source, folder or target that is not
// there; [errdefs.ErrPermissionDenied]; [errdefs.ErrNotImplemented] for a type of mount that
// this package or the kernel does not know.
func All(mounts []Mount, target string) error { return route{}.all(mounts, target) }

func (r route) all(mounts []Mount, target string) error {
	var done []string
	for _, m := range mounts {
		at, err := r.mount(m, target)
		if err != nil {
			err = fmt.Errorf("mount %s at %s: %w", m.Type, filepath.Join(target, m.Target), kinded(err))
			for _, made := range slices.Backward(done) {
				if undo := unix.Unmount(made, unix.UMOUNT_NOFOLLOW); undo != nil {
					err = errors.Join(err, fmt.Errorf("undo mount at %s: %w", made, kinded(undo)))
				}
			}
			return err
		}
		done = append(done, at)
	}
	return nil
}

// mount makes one mount beneath target and returns where.
func (r route) mount(m Mount, target string) (string, error) {
	flags, options, err := parse(m.Options)
	if err != nil {
		return "", err
	}
	// The target is opened for every mount: an earlier one may have covered it.
	place, err := openTarget(target, m.Target)
	if err != nil {
		return "", err
	}
	defer release(place)
	at, err := os.Readlink(byFD(place))
	if err != nil {
		return "", err
	}
	switch m.Type {
	case "bind":
		err = r.bind(m.Source, flags, options, place, at)
	case "overlay":
		err = r.overlay(m.Source, flags, options, place)
	case "erofs":
		err = r.erofs(m.Source, flags, options, place)
	default:
		err = fmt.Errorf("unknown type: %w", errdefs.ErrNotImplemented)
	}
	return at, err
}

// openTarget opens the place of a mount.
func openTarget(target, sub string) (*os.File, error) {
	root, err := os.OpenFile(target, unix.O_PATH, 0)
	if err != nil || sub == "" {
		return root, err
	}
	defer release(root)
	fd, err := unix.Openat2(int(root.Fd()), sub, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(target, sub), Err: err}
	}
	return os.NewFile(uintptr(fd), sub), nil
}

// byFD is a path to an open file for calls that take paths only.
func byFD(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// release closes a file that nothing was written to, so that nothing can be lost.
func release(f *os.File) { _ = f.Close() }
