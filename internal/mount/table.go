package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// An Info tells of a mount that is there.
type Info struct {
	Target string // absolute, without symbolic links
	Type   string
	Source string // as the filesystem tells it: an image file, a device, or a mere word
	Root   string // what of the filesystem is shown; "/" unless it is a bind of a part
	// Options begin with "ro" or "rw": what holds here, be it for the mount or the whole
	// filesystem. The mount's flags follow, then the options of the filesystem.
	Options []string
}

// Dirs are the folders that an option of an overlay names, such as "upperdir"; those of
// "lowerdir" from the topmost down, however they were handed in. They are as they were given
// at mounting. Lower folders whose names were too many for the mount call of an old kernel
// are relative to a folder of which the kernel does not tell.
func (i Info) Dirs(option string) []string { return dirsOf(i.Options, option) }

// Dirs are the folders that an option of an overlay names, as those of [Info.Dirs].
func (m Mount) Dirs(option string) []string { return dirsOf(m.Options, option) }

func dirsOf(options []string, option string) []string {
	var dirs []string
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case option:
			dirs = append(dirs, splitDirs(value)...)
		case option + "+": // one folder, without escapes
			dirs = append(dirs, value)
		}
	}
	return dirs
}

// Beneath lists the mounts at dir and below it that this process can see, in an order in which
// they can be unmounted: the deepest first, and of those at one place the topmost first. A dir
// that does not exist has none.
func Beneath(dir string) ([]Info, error) {
	real, err := resolve(dir)
	if real == "" || err != nil {
		return nil, err
	}
	all, err := table()
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimSuffix(real, "/") + "/"
	all = slices.DeleteFunc(all, func(i Info) bool {
		return i.Target != real && !strings.HasPrefix(i.Target, prefix)
	})
	slices.Reverse(all) // the kernel lists a mount before what is mounted on it
	slices.SortStableFunc(all, func(a, b Info) int {
		return strings.Count(b.Target, "/") - strings.Count(a.Target, "/")
	})
	return all, nil
}

// At tells what is mounted at target itself, the topmost if several are, and whether anything is.
func At(target string) (Info, bool, error) {
	real, err := resolve(target)
	if real == "" || err != nil {
		return Info{}, false, err
	}
	all, err := table()
	if err != nil {
		return Info{}, false, err
	}
	for _, i := range slices.Backward(all) {
		if i.Target == real {
			return i, true, nil
		}
	}
	return Info{}, false, nil
}

// resolve makes name what the kernel's table would call it, or "" if there is no such thing.
func resolve(name string) (string, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look for mounts: %w", err)
	}
	return real, nil
}

// table reads the mounts of this process's namespace, in the kernel's order. It is ours and
// not a library's because lines are long: the folders of an overlay of 500 layers take more than
// 64 KiB, where line readers end by default.
func table() ([]Info, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var all []Info
	for line := range strings.Lines(string(data)) {
		info, err := parseLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("list mounts: %w", err)
		}
		all = append(all, info)
	}
	return all, nil
}

// parseLine reads one line of mountinfo, whose fields are: ids of the mount and its parent,
// device, root, target, flags of the mount, any number of tags, "-", type, source, options
// of the filesystem.
func parseLine(line string) (Info, error) {
	fields := strings.Split(line, " ")
	dash := slices.Index(fields, "-")
	if dash < 6 || len(fields) != dash+4 {
		return Info{}, fmt.Errorf("mountinfo line %q: %w", shorten(line), errdefs.ErrInvalidArgument)
	}
	own := strings.Split(fields[5], ",")
	super := strings.Split(fields[dash+3], ",")
	access := "rw"
	if own[0] == "ro" || super[0] == "ro" {
		access = "ro"
	}
	options := append([]string{access}, own[1:]...)
	for _, option := range super[1:] {
		options = append(options, unescape(option))
	}
	return Info{
		Target:  unescape(fields[4]),
		Type:    unescape(fields[dash+1]),
		Source:  unescape(fields[dash+2]),
		Root:    unescape(fields[3]),
		Options: options,
	}, nil
}

// unescape undoes the kernel's escapes, a backslash and three octal digits.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] <= '3' && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }
