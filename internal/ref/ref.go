// Package ref is how images are named: references as people type them, in docker's normal form.
//
// It owns the grammar and nothing else: whether a name stands for something is asked of a store
// or a registry.
package ref

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/image"
)

// A Reference names an image at a registry: registry/repository, and a tag or a digest or both.
// The zero value names nothing; [Parse] makes the others. References may be compared with ==.
type Reference struct {
	registry   string // docker.io
	repository string // library/alpine
	tag        string
	digest     digest.Digest
}

// Parse reads a reference and fills in what docker leaves out: alpine is
// docker.io/library/alpine:latest. No tag is added where a digest is given. A digest alone is no
// reference, though docker's parser takes it for the tag of a repository called sha256: there are
// images that are called by one. Errors: [errdefs.ErrInvalidArgument], with the reason.
func Parse(s string) (Reference, error) {
	if image.CheckDigest(digest.Digest(s)) == nil {
		return Reference{}, fmt.Errorf("reference %.300q: it is a digest without a name: %w", s, errdefs.ErrInvalidArgument)
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Reference{}, fmt.Errorf("reference %.300q: %s: %w", s, reason(s, err), errdefs.ErrInvalidArgument)
	}
	named = reference.TagNameOnly(named)
	r := Reference{registry: reference.Domain(named), repository: reference.Path(named)}
	if t, ok := named.(reference.Tagged); ok {
		r.tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.digest = d.Digest()
		if err := image.CheckDigest(r.digest); err != nil {
			return Reference{}, fmt.Errorf("reference %.300q: %w", s, err)
		}
	}
	return r, nil
}

// Registry is the host, and port if it has one, that the name points to.
func (r Reference) Registry() string { return r.registry }

// Repository is the path at the registry: library/alpine.
func (r Reference) Repository() string { return r.repository }

// Name is registry/repository, without tag and digest.
func (r Reference) Name() string { return r.registry + "/" + r.repository }

// Tag is the tag, or empty.
func (r Reference) Tag() string { return r.tag }

// Digest is the digest, or empty.
func (r Reference) Digest() digest.Digest { return r.digest }

// String is the whole reference in its one normal form, which [Parse] reads back.
func (r Reference) String() string {
	if r == (Reference{}) {
		return ""
	}
	return r.Name() + r.suffix()
}

// Familiar is the reference as a person would type it: alpine:latest.
func (r Reference) Familiar() string {
	named, err := reference.ParseNormalizedNamed(r.Name())
	if err != nil {
		return r.String()
	}
	return reference.FamiliarName(named) + r.suffix()
}

func (r Reference) suffix() string {
	s := ""
	if r.tag != "" {
		s = ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + r.digest.String()
	}
	return s
}

// WithTag is the same repository and digest under another tag. Errors:
// [errdefs.ErrInvalidArgument].
func (r Reference) WithTag(tag string) (Reference, error) {
	if !tagForm.MatchString(tag) {
		return Reference{}, fmt.Errorf("tag %.200q: %s: %w", tag, tagRule, errdefs.ErrInvalidArgument)
	}
	r.tag = tag
	return r, nil
}

// WithDigest is the same repository and tag at digest d. Errors: [errdefs.ErrInvalidArgument].
func (r Reference) WithDigest(d digest.Digest) (Reference, error) {
	if err := image.CheckDigest(d); err != nil {
		return Reference{}, err
	}
	r.digest = d
	return r, nil
}

// WithoutDigest is the same repository under its tag alone, which is latest if it had none.
func (r Reference) WithoutDigest() Reference {
	r.digest = ""
	if r.tag == "" {
		r.tag = "latest"
	}
	return r
}

const tagRule = "a tag is up to 128 letters, digits, '_', '.' and '-', and begins with none of the last two"

var tagForm = regexp.MustCompile(`^` + reference.TagRegexp.String() + `$`)

// reason says what is wrong with s, where err, the parser's word on it, is too general.
func reason(s string, err error) string {
	if !errors.Is(err, reference.ErrReferenceInvalidFormat) {
		return err.Error()
	}
	name, d, hasDigest := strings.Cut(s, "@")
	// A colon before the last slash belongs to the port.
	tag, hasTag := "", false
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name, tag, hasTag = name[:i], name[i+1:], true
	}
	switch {
	case s == "":
		return "it is empty"
	case strings.Contains(s, "://"):
		return "it begins with a scheme; leave it out"
	case strings.ContainsAny(s, " \t\r\n"):
		return "it contains a space"
	case hasDigest && image.CheckDigest(image.Digest(d)) != nil:
		return "what follows '@' is not a digest"
	case hasTag && !tagForm.MatchString(tag):
		return tagRule
	case strings.ToLower(name) != name:
		return "a repository is in lower case"
	case strings.Contains(name, "//") || strings.HasSuffix(name, "/") || strings.HasPrefix(name, "/"):
		return "a part between slashes is empty"
	}
	return "a repository is made of lower-case letters and digits, with '.', '_' and '-' between them"
}
