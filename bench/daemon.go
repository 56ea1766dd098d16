package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

// daemonPatience bounds how long a daemon takes until it answers, and until it ends.
const daemonPatience = 30 * time.Second

// A daemon is a process that runs beside what is measured.
type daemon struct {
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{} // closed when the process has ended; err is set then
	err  error
}

func startDaemon(env []string, args ...string) (*daemon, error) {
	d := &daemon{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = env, &d.log, &d.log
	// A bench that is killed must not leave it behind.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	return d, nil
}

// answers waits until a command that asks the daemon succeeds.
func (d *daemon) answers(ctx context.Context, command []string) error {
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	for {
		_, err := runProcess(ctx, command)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-d.done:
			return fmt.Errorf("%s ended: %w\n%s", d.cmd.Path, d.err, d.log.Bytes())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop asks the daemon to end and waits for it.
func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w\n%s", d.cmd.Path, err, d.log.Bytes())
	}
	select {
	case <-d.done:
		return nil
	case <-time.After(daemonPatience):
	}
	err := d.cmd.Process.Kill()
	<-d.done
	return errors.Join(fmt.Errorf("%s had to be killed\n%s", d.cmd.Path, d.log.Bytes()), err)
}
