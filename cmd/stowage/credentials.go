package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/stowage/stowage"
)

// registry makes the options with which registries are reached.
func (a *app) registry(r *registryFlags) (stowage.RegistryOptions, error) {
	o := stowage.RegistryOptions{HostsDirs: a.conf.HostsDirs, PlainHTTP: r.plainHTTP, AuthFiles: a.conf.AuthFiles}
	if len(r.hostsDirs) > 0 {
		o.HostsDirs = r.hostsDirs
		for _, d := range r.hostsDirs {
			if info, err := os.Stat(d); err != nil {
				return o, usagef("--hosts-dir: %w", err)
			} else if !info.IsDir() {
				return o, usagef("--hosts-dir %s: not a folder", d)
			}
		}
	}
	if r.user == "" {
		return o, nil
	}
	user, pass, given := strings.Cut(r.user, ":")
	if !given {
		f, ok := a.in.(*os.File)
		if !ok || !term.IsTerminal(int(f.Fd())) {
			return o, usagef("-u %s: no password given, and there is no terminal to ask on", user)
		}
		fmt.Fprintf(a.err, "Password for %s: ", user)
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.err)
		if err != nil && err != io.EOF {
			return o, fmt.Errorf("read the password: %w", err)
		}
		pass = string(b)
	}
	o.Username, o.Password = user, pass
	return o, nil
}
