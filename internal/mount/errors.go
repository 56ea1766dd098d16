package mount

import (
	"errors"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// kinds are the kinds of the kernel's answers. What is not among them has none.
var kinds = map[unix.Errno]error{
	unix.EINVAL:  errdefs.ErrInvalidArgument,
	unix.ENOENT:  errdefs.ErrNotFound,
	unix.ENOTDIR: errdefs.ErrInvalidArgument,
	unix.ELOOP:   errdefs.ErrInvalidArgument,
	unix.EPERM:   errdefs.ErrPermissionDenied,
	unix.EACCES:  errdefs.ErrPermissionDenied,
	unix.EBUSY:   errdefs.ErrFailedPrecondition,
	unix.ENOSYS:  errdefs.ErrNotImplemented,
	unix.ENODEV:  errdefs.ErrNotImplemented, // a filesystem that the kernel does not have
	unix.ENOTBLK: errdefs.ErrNotImplemented,
}

// A kindError is an error with the kind that its number stands for.
type kindError struct {
	error
	kind error
}

func (e *kindError) Unwrap() []error { return []error{e.kind, e.error} }

// kinded gives an error of the kernel its kind. Others pass as they are.
func kinded(err error) error {
	var number unix.Errno
	if !errors.As(err, &number) || kinds[number] == nil {
		return err
	}
	return &kindError{err, kinds[number]}
}
