package hosts

import (
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/ref"
)

// A Rewrite is a rule by which a host keeps repositories under other names.
type Rewrite struct {
	Pattern     *regexp.Regexp
	Replacement string // $1 is the pattern's first group
}

// Repo is the name under which the host keeps the repository repo: the first rule that changes it is
// the only one that does. An [errdefs.ErrInvalidArgument] tells that the new name is none.
func (h *Host) Repo(repo string) (string, error) {
	for _, r := range h.Rewrite {
		name := r.Pattern.ReplaceAllString(repo, r.Replacement)
		if name == repo {
			continue
		}
		if got, err := ref.Parse("r.invalid/" + name); err != nil || got.Repository() != name {
			return "", fmt.Errorf("rewrite %s for %s: %q is no repository: %w", repo, h.URL.Host, name, errdefs.ErrInvalidArgument)
		}
		return name, nil
	}
	return repo, nil
}
