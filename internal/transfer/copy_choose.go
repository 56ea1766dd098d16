package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stowage/stowage/internal/image"
	"github.com/stowage/stowage/internal/progress"
)

// choose leaves of a cargo what was asked for. All of it stays as it is, under its own digest. Of
// less, one platform goes as its manifest alone, and several in an index of these: that has
// another digest, and somebody is told.
func (m *mover) choose(ctx context.Context, c *cargo) (*cargo, error) {
	if !c.tree.IsIndex() {
		return c, m.checkPlatform(ctx, c)
	}
	wanted := m.o.Platforms
	all := c.tree.Platforms()
	if m.o.alone && len(wanted) == 0 && !m.o.All && len(all) > 1 {
		wanted = []image.Platform{image.Host()}
	}
	if len(wanted) == 0 && !m.o.alone {
		return c, nil
	}
	chosen, err := image.Choose(wanted, all)
	switch {
	case err != nil:
		return nil, err
	case m.o.alone && len(chosen) != 1:
		return nil, fmt.Errorf("a docker archive holds one platform, and %d were asked for: %w", len(chosen), errdefs.ErrInvalidArgument)
	case len(chosen) == len(all) && !m.o.alone:
		return c, nil
	}
	small, err := c.reduce(ctx, chosen)
	if err != nil {
		return nil, err
	}
	return small, m.tellLeft(ctx, c, small)
}

// checkPlatform sees that an image without an index is for a platform that was asked for, which
// only its config says.
func (m *mover) checkPlatform(ctx context.Context, c *cargo) error {
	doc := c.tree.Document(c.root.Digest)
	if len(m.o.Platforms) == 0 || !doc.IsImage() {
		return nil
	}
	b, err := readConfig(ctx, *doc.Config, m.o.Progress, m.from)
	if err != nil {
		return fmt.Errorf("read config %s: %w", doc.Config.Digest, err)
	}
	config, err := image.ParseConfig(b)
	if err != nil {
		return fmt.Errorf("config %s: %w", doc.Config.Digest, err)
	}
	if !image.Match(m.o.Platforms, config.Platform) {
		return fmt.Errorf("the image is for %s alone: %w", image.FormatPlatform(config.Platform), errdefs.ErrNotFound)
	}
	return nil
}

// reduce makes a cargo of the chosen manifests of an index.
func (c *cargo) reduce(ctx context.Context, chosen []image.Descriptor) (*cargo, error) {
	picked := map[image.Digest]bool{}
	for _, d := range chosen {
		picked[d.Digest] = true
	}
	small := &cargo{tree: c.tree, bodies: c.bodies}
	for _, p := range c.parts {
		// What was attested of a chosen manifest belongs to it, where there is an index to list it.
		if picked[p.Digest] || len(picked) > 1 && picked[image.AttestationSubject(p.Descriptor)] {
			small.parts = append(small.parts, p)
		}
	}
	if len(chosen) == 1 {
		d := chosen[0]
		small.root = image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
		return small, nil
	}
	body, root, err := c.reducedIndex(chosen)
	if err != nil {
		return nil, err
	}
	small.root, small.indexes = root, []image.Descriptor{root}
	small.bodies[root.Digest] = body
	small.tree, err = image.ReadTree(ctx, root, func(_ context.Context, d image.Descriptor) ([]byte, error) {
		if b := small.bodies[d.Digest]; b != nil {
			return b, nil
		}
		return nil, fmt.Errorf("document %s: %w", d.Digest, errdefs.ErrNotFound)
	})
	return small, err
}

// reducedIndex writes an index of the chosen manifests, and of what was attested of them. The same choice
// always gives the same bytes.
func (c *cargo) reducedIndex(chosen []image.Descriptor) ([]byte, image.Descriptor, error) {
	whole := c.tree.Document(c.root.Digest)
	index := v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: whole.MediaType, ArtifactType: whole.ArtifactType,
		Subject: whole.Subject, Annotations: whole.Annotations,
	}
	for _, d := range c.tree.Documents() {
		for _, m := range c.tree.Document(d.Digest).Manifests {
			// One manifest may stand there for several platforms.
			if slices.ContainsFunc(chosen, func(d image.Descriptor) bool {
				return d.Digest == m.Digest && reflect.DeepEqual(d.Platform, m.Platform) || d.Digest == image.AttestationSubject(m)
			}) {
				index.Manifests = append(index.Manifests, m)
			}
		}
	}
	b, err := json.Marshal(index)
	if err != nil {
		return nil, image.Descriptor{}, fmt.Errorf("write index: %w", err)
	}
	return b, image.Describe(whole.MediaType, b), nil
}

// tellLeft says what of an index is not moved.
func (m *mover) tellLeft(ctx context.Context, whole, small *cargo) error {
	var kept, left []string
	for _, p := range whole.parts {
		if slices.Contains(small.parts, p) {
			kept = append(kept, p.label())
		} else {
			left = append(left, p.label())
		}
	}
	as := "alone, as " + small.root.Digest.String()
	if len(small.indexes) > 0 {
		as = "in an index of their own, " + small.root.Digest.String()
	}
	message := fmt.Sprintf("%s: %s moved %s; the index %s is not, nor %s of it",
		m.name, isAre(kept), as, whole.root.Digest, strings.Join(left, ", "))
	if len(left) == 0 {
		message, _, _ = strings.Cut(message, ", nor ")
	}
	if !m.o.NoReferrers {
		refs, err := m.from.referrers(ctx, whole.root)
		if err != nil {
			return fmt.Errorf("list referrers of %s: %w", whole.root.Digest, err)
		}
		if n := len(refs); n > 0 {
			message += fmt.Sprintf(", nor %d referrers of the index", n)
		}
	}
	m.warn(message)
	return nil
}

func (m *mover) warn(message string) {
	m.o.Progress.Send(progress.Event{Kind: progress.Warning, Message: message})
}
