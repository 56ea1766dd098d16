package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxString is the longest string that fsconfig takes.
const maxString = 255

// A fsContext is a filesystem that is being set up, out of sight (fsopen).
type fsContext struct {
	fd  int
	typ string
}

func openContext(typ string) (*fsContext, error) {
	fd, err := unix.Fsopen(typ, unix.FSOPEN_CLOEXEC)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("the kernel has no %s: %w", typ, err)
	case err != nil:
		return nil, os.NewSyscallError("fsopen", err)
	}
	return &fsContext{fd, typ}, nil
}

func (c *fsContext) close() { _ = unix.Close(c.fd) } // nothing was written that could be lost

// set sets one option as mount(8) has it, with or without a value.
func (c *fsContext) set(option string) error {
	key, value, ok := strings.Cut(option, "=")
	if !ok {
		return c.explain(option, unix.FsconfigSetFlag(c.fd, key))
	}
	return c.setString(key, value)
}

func (c *fsContext) setString(key, value string) error {
	return c.explain(key+"="+value, unix.FsconfigSetString(c.fd, key, value))
}

// mount creates the filesystem and mounts it, attached nowhere.
func (c *fsContext) mount(f flags) (*os.File, error) {
	if f&unix.MS_RDONLY != 0 {
		if err := c.set("ro"); err != nil { // the filesystem, not only this mount of it
			return nil, err
		}
	}
	if err := c.explain("create", unix.FsconfigCreate(c.fd)); err != nil {
		return nil, err
	}
	_, attributes := f.attributes()
	fd, err := unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, int(attributes))
	if err != nil {
		return nil, c.explain("fsmount", err)
	}
	return os.NewFile(uintptr(fd), c.typ), nil
}

// explain adds to an error what the kernel said about it in words.
func (c *fsContext) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	var said []string
	buf := make([]byte, 1024)
	for {
		n, none := unix.Read(c.fd, buf) // one message a call
		if none != nil || n == 0 {
			break
		}
		// "e message", where the letter is its severity.
		message := strings.TrimSpace(string(buf[:n]))
		if _, text, ok := strings.Cut(message, " "); ok {
			message = text
		}
		said = append(said, message)
	}
	if len(said) == 0 {
		return fmt.Errorf("%s: %w", shorten(what), err)
	}
	return fmt.Errorf("%s: %w (%s)", shorten(what), err, strings.Join(said, "; "))
}

// shorten keeps options of thousands of bytes out of messages.
func shorten(s string) string {
	const limit = 300
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

// attach puts a mount that is attached nowhere at place. It closes the mount's file, with which
// a mount that could not be attached goes away.
func attach(mount, place *os.File) error {
	err := unix.MoveMount(int(mount.Fd()), "", int(place.Fd()), "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return errors.Join(os.NewSyscallError("move_mount", err), mount.Close())
}
