package metadata

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// An imageRow is an image as it is stored.
type imageRow struct {
	Image
	// Want is the manifests that were asked for, also those that no index here offers yet.
	Want []image.Digest `json:"want,omitempty"`
}

// AppendBinary writes the image.
func (row imageRow) AppendBinary(b []byte) ([]byte, error) {
	b = appendSized(b, row.Name)
	b = appendTime(appendTime(b, row.CreatedAt), row.UpdatedAt)
	b = appendLabels(b, row.Labels)
	b = appendSized(b, string(row.State))
	b = binary.AppendUvarint(b, uint64(row.Size))
	b, err := appendDescriptor(b, row.Target)
	if err != nil {
		return nil, err
	}
	b = binary.AppendUvarint(b, uint64(len(row.Platforms)))
	for i := range row.Platforms {
		if b, err = row.Platforms[i].append(b); err != nil {
			return nil, err
		}
	}
	b = binary.AppendUvarint(b, uint64(len(row.Want)))
	for _, d := range row.Want {
		if b, err = appendWhole(b, d); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// UnmarshalBinary is the inverse of AppendBinary.
func (row *imageRow) UnmarshalBinary(b []byte) error {
	p := parts{b: b}
	if err := row.read(&p); err != nil {
		return err
	}
	return p.end()
}

func (row *imageRow) read(p *parts) (err error) {
	*row = imageRow{Image: Image{Name: p.string(), CreatedAt: p.time(), UpdatedAt: p.time(), Labels: p.labels()}}
	row.State, row.Size = p.state(), p.size()
	if row.Target, err = p.descriptor(); err != nil {
		return err
	}
	if n := p.count(); n > 0 {
		row.Platforms = make([]PlatformState, 0, min(n, manyPlatforms))
		for ; n > 0 && !p.bad; n-- {
			s, err := p.platformState()
			if err != nil {
				return err
			}
			row.Platforms = append(row.Platforms, s)
		}
	}
	for n := p.count(); n > 0 && !p.bad; n-- {
		row.Want = append(row.Want, p.digest())
	}
	return nil
}

// manyPlatforms is for how many of them there is room at once, whatever a row says that it has.
const manyPlatforms = 32

// append writes what is here of a platform.
func (s *PlatformState) append(b []byte) ([]byte, error) {
	b = appendPlatform(b, s.Platform)
	b, err := appendDescriptor(b, s.Manifest)
	if err != nil {
		return nil, err
	}
	b = appendFlag(b, s.Wanted)
	b = appendSized(b, string(s.State))
	b = binary.AppendUvarint(b, uint64(s.Size))
	b = binary.AppendUvarint(b, uint64(len(s.Missing)))
	for _, d := range s.Missing {
		if b, err = appendDescriptor(b, d); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (p *parts) platformState() (s PlatformState, err error) {
	s.Platform = p.platform()
	if s.Manifest, err = p.descriptor(); err != nil {
		return s, err
	}
	s.Wanted, s.State, s.Size = p.flag(), p.state(), p.size()
	for n := p.count(); n > 0 && !p.bad; n-- {
		d, err := p.descriptor()
		if err != nil {
			return s, err
		}
		s.Missing = append(s.Missing, d)
	}
	return s, nil
}

func (p *parts) state() State { return State(p.string()) }

// appendDescriptor appends a descriptor: its digest, size and type, its platform behind whether it has
// one, and in JSON what else it says, which is mostly nothing.
func appendDescriptor(b []byte, d image.Descriptor) ([]byte, error) {
	b, err := appendWhole(b, d.Digest)
	if err != nil {
		return nil, err
	}
	b = appendSized(binary.AppendUvarint(b, uint64(d.Size)), d.MediaType)
	b = appendFlag(b, d.Platform != nil)
	if d.Platform != nil {
		b = appendPlatform(b, *d.Platform)
		d.Platform = nil
	}
	more, err := moreOf(d)
	return appendSized(b, more), err
}

// appendWhole appends a digest, and refuses what is none: it could not be read again.
func appendWhole(b []byte, d image.Digest) ([]byte, error) {
	n := len(b)
	if b = appendDigest(b, d); b[n] == 0 {
		return nil, fmt.Errorf("digest %.200q: %w", string(d), errdefs.ErrInvalidArgument)
	}
	return b, nil
}

func (p *parts) descriptor() (d image.Descriptor, err error) {
	d = image.Descriptor{Digest: p.digest(), Size: p.size(), MediaType: p.string()}
	if p.flag() {
		platform := p.platform()
		d.Platform = &platform
	}
	if other := p.sized(); len(other) > 0 {
		var m more
		if err := json.Unmarshal(other, &m); err != nil {
			return d, err
		}
		d.URLs, d.Annotations, d.Data, d.ArtifactType = m.URLs, m.Annotations, m.Data, m.ArtifactType
	}
	return d, nil
}

func appendPlatform(b []byte, pl image.Platform) []byte {
	for _, s := range []string{pl.OS, pl.Architecture, pl.Variant, pl.OSVersion} {
		b = appendSized(b, s)
	}
	b = binary.AppendUvarint(b, uint64(len(pl.OSFeatures)))
	for _, s := range pl.OSFeatures {
		b = appendSized(b, s)
	}
	return b
}

func (p *parts) platform() image.Platform {
	pl := image.Platform{OS: p.string(), Architecture: p.string(), Variant: p.string(), OSVersion: p.string()}
	for n := p.count(); n > 0 && !p.bad; n-- {
		pl.OSFeatures = append(pl.OSFeatures, p.string())
	}
	return pl
}

func appendFlag(b []byte, set bool) []byte {
	if set {
		return append(b, 1)
	}
	return append(b, 0)
}

func (p *parts) flag() bool {
	n := p.uvarint()
	p.bad = p.bad || n > 1
	return n == 1
}

// A removedRow is what is remembered of a name that was taken away. It keeps nothing.
type removedRow struct {
	imageRow
	RemovedAt time.Time `json:"removedAt"`
}

// AppendBinary writes when that was, and the image.
func (row removedRow) AppendBinary(b []byte) ([]byte, error) {
	return row.imageRow.AppendBinary(appendTime(b, row.RemovedAt))
}

// UnmarshalBinary is the inverse of AppendBinary.
func (row *removedRow) UnmarshalBinary(b []byte) error {
	p := parts{b: b}
	row.RemovedAt = p.time()
	if err := row.read(&p); err != nil {
		return err
	}
	return p.end()
}
