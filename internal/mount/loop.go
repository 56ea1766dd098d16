package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// attachLoop shows a file as a read-only block device. The device vanishes with its last user:
// when the file that is returned is closed and what was mounted from it is gone.
func attachLoop(name string) (*os.File, error) {
	backing, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer release(backing)
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer release(control)
	config := &unix.LoopConfig{
		Fd:   uint32(backing.Fd()),
		Size: 512, // of a block; images and tars are no multiple of more
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
	}
	// A device that is free may be taken by somebody else before it is ours.
	const tries = 100
	for range tries {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("find a free loop device", err)
		}
		device, err := os.Open(fmt.Sprintf("/dev/loop%d", number))
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), config)
		if err == nil {
			return device, nil
		}
		err = errors.Join(&os.PathError{Op: "attach " + name + " to", Path: device.Name(), Err: err}, device.Close())
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("attach %s: others took %d loop devices before: %w", name, tries, unix.EBUSY)
}
