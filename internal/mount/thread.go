package mount

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inFolder calls f with dir as its working directory, in which nothing else of the process
// finds itself. When it returns, no thread is in dir.
func inFolder(dir string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		// The thread is never given back: it ends with this goroutine, and so nothing else
		// runs on it, with the wrong working directory.
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// But the first thread of a process cannot end: it would stay in dir, and keep its
			// filesystem in use. While we hold it, another call gets another thread.
			result <- inFolder(dir, f)
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			result <- os.NewSyscallError("unshare", err)
			return
		}
		if err := unix.Chdir(dir); err != nil {
			result <- &os.PathError{Op: "chdir", Path: dir, Err: err}
			return
		}
		err := f()
		// The thread ends some time after this goroutine. Until then it is not to keep dir in use.
		result <- errors.Join(err, os.NewSyscallError("chdir", unix.Chdir("/")))
	}()
	return <-result
}
