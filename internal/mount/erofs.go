package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func (r route) erofs(source string, f flags, options []string, place *os.File) error {
	if f&unix.MS_BIND != 0 {
		return fmt.Errorf("option bind of an erofs: %w", errdefs.ErrInvalidArgument)
	}
	image := erofsImage{source: source}
	for _, option := range options {
		if device, ok := strings.CutPrefix(option, "device="); ok {
			image.devices = append(image.devices, device)
		} else {
			image.rest = append(image.rest, option)
		}
	}
	if !r.loops {
		mount, err := image.detached(f)
		if err == nil {
			return attach(mount, place)
		}
		// ENOTBLK: the kernel, or the filesystem of the files, takes block devices only.
		if !errors.Is(err, unix.ENOTBLK) {
			return fmt.Errorf("image %s: %w", source, err)
		}
	}
	mount, err := image.detachedLoops(f)
	if err != nil {
		return fmt.Errorf("image %s on loop devices: %w", source, err)
	}
	return attach(mount, place)
}

// An erofsImage is an image in files or on block devices.
type erofsImage struct {
	source  string
	devices []string // in the order of their numbers in the image
	rest    []string // other options
}

// detached mounts the image, attached nowhere.
func (e erofsImage) detached(f flags) (*os.File, error) {
	c, err := openContext("erofs")
	if err != nil {
		return nil, err
	}
	defer c.close()
	for _, option := range e.rest {
		if err := c.set(option); err != nil {
			return nil, err
		}
	}
	for i, name := range append([]string{e.source}, e.devices...) {
		key := "device"
		if i == 0 {
			key = "source"
		}
		// The kernel does not say which of the files is missing.
		if _, err := os.Stat(name); err != nil {
			return nil, err
		}
		if len(name) > maxString {
			file, err := os.OpenFile(name, unix.O_PATH, 0)
			if err != nil {
				return nil, err
			}
			defer release(file)
			name = byFD(file)
		}
		if err := c.setString(key, name); err != nil {
			return nil, err
		}
	}
	// Read-only, as it is anyway: block devices that are would be refused otherwise.
	return c.mount(f | unix.MS_RDONLY)
}

// detachedLoops mounts the image from loop devices on its files.
func (e erofsImage) detachedLoops(f flags) (*os.File, error) {
	on := erofsImage{rest: e.rest}
	for i, name := range append([]string{e.source}, e.devices...) {
		device, err := attachLoop(name)
		if err != nil {
			return nil, err
		}
		defer release(device) // the mount, if there is one, keeps it attached
		if i == 0 {
			on.source = device.Name()
		} else {
			on.devices = append(on.devices, device.Name())
		}
	}
	return on.detached(f)
}
