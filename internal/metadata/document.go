package metadata

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/image"
)

// A documentRow is a document as it is stored: in JSON, what there is once, and behind it the
// descriptors, of which there may be many, each some 36 bytes long.
type documentRow struct {
	Size int64 `json:"size"`
	image.Document
	Types []string `json:"types,omitempty"` // the media types of the descriptors, each once
}

// Where in the document a descriptor stands.
const (
	atConfig   = 'c'
	atLayer    = 'l'
	atManifest = 'm'
	atSubject  = 's'
)

// AppendBinary writes the document.
func (row documentRow) AppendBinary(b []byte) ([]byte, error) {
	head := row
	head.Config, head.Layers, head.Manifests, head.Subject = nil, nil, nil, nil
	var tail []byte
	var failed error
	add := func(at byte, d image.Descriptor) {
		i := slices.Index(head.Types, d.MediaType)
		if i < 0 {
			i = len(head.Types)
			head.Types = append(head.Types, d.MediaType)
		}
		tail = appendDigest(append(tail, at), d.Digest)
		tail = binary.AppendUvarint(tail, uint64(d.Size))
		tail = binary.AppendUvarint(tail, uint64(i))
		more, err := moreOf(d)
		if err != nil {
			failed = err
		}
		tail = appendSized(tail, more)
	}
	if row.Config != nil {
		add(atConfig, *row.Config)
	}
	for _, d := range row.Layers {
		add(atLayer, d)
	}
	for _, d := range row.Manifests {
		add(atManifest, d)
	}
	if row.Subject != nil {
		add(atSubject, *row.Subject)
	}
	once, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	return append(appendSized(b, once), tail...), failed
}

// moreOf is what else a descriptor says, in JSON; mostly nothing.
func moreOf(d image.Descriptor) ([]byte, error) {
	if d.URLs == nil && d.Annotations == nil && d.Data == nil && d.Platform == nil && d.ArtifactType == "" {
		return nil, nil
	}
	return json.Marshal(more{d.URLs, d.Annotations, d.Data, d.Platform, d.ArtifactType})
}

type more struct {
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Data         []byte            `json:"data,omitempty"`
	Platform     *image.Platform   `json:"platform,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// UnmarshalBinary is the inverse of AppendBinary.
func (row *documentRow) UnmarshalBinary(b []byte) error {
	p := parts{b: b}
	*row = documentRow{}
	if err := json.Unmarshal(p.sized(), row); err != nil {
		return err
	}
	for len(p.b) > 0 {
		at, d, err := row.descriptor(&p)
		if err != nil {
			return err
		}
		switch at {
		case atConfig:
			row.Config = &d
		case atLayer:
			row.Layers = append(row.Layers, d)
		case atManifest:
			row.Manifests = append(row.Manifests, d)
		case atSubject:
			row.Subject = &d
		default:
			return errShort
		}
	}
	return p.end()
}

// descriptor reads the next one.
func (row *documentRow) descriptor(p *parts) (at byte, d image.Descriptor, err error) {
	at = p.took(1)[0]
	d.Digest, d.Size = p.digest(), p.size()
	t := p.uvarint()
	other := p.sized()
	if p.bad || t >= uint64(len(row.Types)) {
		return 0, d, errShort
	}
	d.MediaType = row.Types[t]
	if len(other) > 0 {
		var m more
		if err := json.Unmarshal(other, &m); err != nil {
			return 0, d, err
		}
		d.URLs, d.Annotations, d.Data, d.Platform, d.ArtifactType = m.URLs, m.Annotations, m.Data, m.Platform, m.ArtifactType
	}
	return at, d, nil
}

// document returns a document, or nil if there is none, and remembers it.
func (v view) document(d image.Digest) (*Document, error) {
	if doc, ok := v.documents[d]; ok {
		return doc, nil
	}
	doc, err := v.readDocument(d)
	if err != nil {
		return nil, err
	}
	v.documents[d] = doc
	return doc, nil
}

// readDocument returns a document, or nil if there is none.
func (v view) readDocument(d image.Digest) (*Document, error) {
	var row documentRow
	err := v.get(documentKey(d), &row)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &Document{Digest: d, Size: row.Size, Document: row.Document}, nil
}

// check tells whether the document can be stored.
func (doc *Document) check() error {
	if err := image.CheckDescriptor(image.Descriptor{Digest: doc.Digest, Size: doc.Size}); err != nil {
		return err
	}
	for c := range doc.Children() {
		if err := image.CheckDescriptor(c.Descriptor); err != nil {
			return fmt.Errorf("document %s: %s %d: %w", doc.Digest, c.Place, c.Index, err)
		}
	}
	if doc.Subject != nil {
		if err := image.CheckDescriptor(*doc.Subject); err != nil {
			return fmt.Errorf("document %s: subject: %w", doc.Digest, err)
		}
	}
	return nil
}
