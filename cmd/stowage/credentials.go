package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/stowage/stowage"
)

// registry makes the options with which registries are reached.
func (a *app) registry(r *registryFlags) (stowage.RegistryOptions, error) {
	o := stowage.RegistryOptions{HostsDirs: a.conf.HostsDirs, Tables: a.conf.Registry, PlainHTTP: r.plainHTTP, AuthFiles: a.conf.AuthFiles, Log: a.log}
	if len(r.hostsDirs) > 0 {
		o.HostsDirs = r.hostsDirs
		o.Tables.Mirrors = nil // they would come before the folders
		for _, d := range r.hostsDirs {
			if info, err := os.Stat(d); err != nil {
				return o, usagef("--hosts-dir: %w", err)
			} else if !info.IsDir() {
				return o, usagef("--hosts-dir %s: not a folder", d)
			}
		}
	}
	var err error
	if o.LimitRate, err = parseRate(r.limitRate); err != nil {
		return o, usagef("--limit-rate %s: %w", r.limitRate, err)
	}
	// The environment is read here and not kept in the configuration, which may be printed.
	if r.user == "" {
		o.Username, o.Password, o.UsernameFrom = os.Getenv("STOWAGE_USERNAME"), os.Getenv("STOWAGE_PASSWORD"), "STOWAGE_USERNAME and STOWAGE_PASSWORD"
		return o, nil
	}
	user, pass, given := strings.Cut(r.user, ":")
	if !given {
		if pass, err = a.askPassword(user); err != nil {
			return o, err
		}
	}
	o.Username, o.Password, o.UsernameFrom = user, pass, "flag -u"
	return o, nil
}

// terminal gives standard input, if somebody types there.
func (a *app) terminal() (*os.File, bool) {
	f, ok := a.in.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) askPassword(user string) (string, error) {
	f, ok := a.terminal()
	if !ok {
		return "", usagef("-u %s: no password given, and there is no terminal to ask on", user)
	}
	fmt.Fprintf(a.err, "Password for %s: ", user)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.err)
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(b), nil
}

func (a *app) askUser() (string, error) {
	f, ok := a.terminal()
	if !ok {
		return "", usagef("no user name: give it with -u")
	}
	fmt.Fprint(a.err, "Username: ")
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read the user name: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// maxPassword bounds a password on standard input, in bytes; some are JSON documents with keys.
const maxPassword = 64 << 10

// readPassword takes all of standard input but the line break at its end.
func (a *app) readPassword() (string, error) {
	b, err := io.ReadAll(io.LimitReader(a.in, maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if len(b) > maxPassword {
		return "", usagef("--password-stdin: more than %d bytes", maxPassword)
	}
	pass := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if pass == "" {
		return "", usagef("--password-stdin: there is no password on standard input")
	}
	return pass, nil
}

// parseRate reads bytes a second: a number, and k, M or G for thousands of one another.
func parseRate(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	number, unit := s, 1.0
	if i := strings.IndexByte("kmg", s[len(s)-1]|0x20); i >= 0 {
		number = s[:len(s)-1]
		unit = []float64{1e3, 1e6, 1e9}[i]
	}
	n, err := strconv.ParseFloat(number, 64)
	if n *= unit; err != nil || !(n >= 1 && n <= 1e15) {
		return 0, errors.New("want bytes a second, such as 500k or 10M")
	}
	return int64(n), nil
}
