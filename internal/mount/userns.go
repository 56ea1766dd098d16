package mount

import (
	"os"
	"slices"
	"strings"
)

// InUserNamespace tells whether this process is in a user namespace with not all ids mapped to
// themselves, as all are in the first one. Where there is no /proc to ask, it says no.
func InUserNamespace() bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	return !slices.Equal(strings.Fields(string(data)), []string{"0", "0", "4294967295"})
}
