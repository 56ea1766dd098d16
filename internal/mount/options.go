package mount

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// flags are those of the mount itself, as mount(2) has them (MS_*).
type flags uintptr

const atimes = unix.MS_NOATIME | unix.MS_RELATIME | unix.MS_STRICTATIME

// known are the options that are flags, with what each sets after it has cleared the bits of
// mask. Of options that contradict each other the last wins.
var known = map[string]struct{ mask, set flags }{
	"defaults":      {},
	"ro":            {unix.MS_RDONLY, unix.MS_RDONLY},
	"rw":            {unix.MS_RDONLY, 0},
	"nosuid":        {unix.MS_NOSUID, unix.MS_NOSUID},
	"suid":          {unix.MS_NOSUID, 0},
	"nodev":         {unix.MS_NODEV, unix.MS_NODEV},
	"dev":           {unix.MS_NODEV, 0},
	"noexec":        {unix.MS_NOEXEC, unix.MS_NOEXEC},
	"exec":          {unix.MS_NOEXEC, 0},
	"nosymfollow":   {unix.MS_NOSYMFOLLOW, unix.MS_NOSYMFOLLOW},
	"symfollow":     {unix.MS_NOSYMFOLLOW, 0},
	"nodiratime":    {unix.MS_NODIRATIME, unix.MS_NODIRATIME},
	"diratime":      {unix.MS_NODIRATIME, 0},
	"noatime":       {atimes, unix.MS_NOATIME},
	"atime":         {unix.MS_NOATIME, 0},
	"relatime":      {atimes, unix.MS_RELATIME},
	"norelatime":    {unix.MS_RELATIME, 0},
	"strictatime":   {atimes, unix.MS_STRICTATIME},
	"nostrictatime": {unix.MS_STRICTATIME, 0},
	"bind":          {unix.MS_BIND | unix.MS_REC, unix.MS_BIND},
	"rbind":         {unix.MS_BIND | unix.MS_REC, unix.MS_BIND | unix.MS_REC},
}

// parse takes the flags out of options and leaves those of the filesystem.
func parse(options []string) (flags, []string, error) {
	var f flags
	var rest []string
	for _, option := range options {
		flag, ok := known[option]
		switch {
		case ok:
			f = f&^flag.mask | flag.set
		case option == "remount":
			return 0, nil, fmt.Errorf("option remount, which mounts nothing: %w", errdefs.ErrInvalidArgument)
		case option == "" || strings.ContainsRune(option, 0):
			return 0, nil, fmt.Errorf("option %q: %w", option, errdefs.ErrInvalidArgument)
		default:
			rest = append(rest, option)
		}
	}
	return f, rest, nil
}

// attributes are the flags as fsmount and mount_setattr want them: bits to clear, bits to set.
func (f flags) attributes() (clr, set uint64) {
	for _, pair := range []struct {
		flag flags
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME},
		{unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME},
	} {
		if f&pair.flag != 0 {
			set |= pair.attr
		}
	}
	if f&atimes != 0 {
		clr = unix.MOUNT_ATTR__ATIME // a number of several bits, in which relatime is 0
	}
	return clr, set
}

// Dirs writes an overlay option that names folders ("lowerdir", "upperdir", "workdir"), with the
// escapes that overlay wants. Lower folders are given from the topmost down.
func Dirs(option string, dirs ...string) string {
	escaped := make([]string, len(dirs))
	for i, dir := range dirs {
		escaped[i] = escapes.Replace(dir)
	}
	return option + "=" + strings.Join(escaped, ":")
}

var escapes = strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)

// splitDirs undoes [Dirs] for the value of an option.
func splitDirs(value string) []string {
	var dirs []string
	var dir strings.Builder
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && i+1 < len(value):
			i++
			dir.WriteByte(value[i])
		case c == ':':
			dirs = append(dirs, dir.String())
			dir.Reset()
		default:
			dir.WriteByte(c)
		}
	}
	return append(dirs, dir.String())
}
