package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// A shelf holds documents and counts how often each is asked for.
type shelf struct {
	docs  map[Digest][]byte
	asked map[Digest]int
}

func newShelf() *shelf { return &shelf{map[Digest][]byte{}, map[Digest]int{}} }

func (s *shelf) get(_ context.Context, d Descriptor) ([]byte, error) {
	s.asked[d.Digest]++
	b, ok := s.docs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("document %s: %w", d.Digest, errdefs.ErrNotFound)
	}
	return b, nil
}

func (s *shelf) put(mediaType, body string) Descriptor {
	d := Describe(mediaType, []byte(body))
	s.docs[d.Digest] = []byte(body)
	return d
}

func (s *shelf) image(digit string) Descriptor {
	return s.put(OCIManifest, manifest(desc(OCIConfig, digit), desc(OCILayer, digit)))
}

func (s *shelf) index(t testing.TB, manifests ...Descriptor) Descriptor {
	t.Helper()
	b, err := json.Marshal(manifests)
	if err != nil {
		t.Fatal(err)
	}
	return s.put(OCIIndex, `{"schemaVersion":2,"manifests":`+string(b)+`}`)
}

func on(t testing.TB, d Descriptor, name string) Descriptor {
	t.Helper()
	p := platform(t, name)
	d.Platform = &p
	return d
}

func TestReadTree(t *testing.T) {
	s := newShelf()
	amd := on(t, s.image("1"), "linux/amd64")
	arm := on(t, s.image("2"), "linux/arm64")
	gone := on(t, s.image("3"), "linux/s390x")
	delete(s.docs, gone.Digest)
	proof := s.image("4")
	proof.Annotations = map[string]string{annotationKind: "attestation-manifest", annotationSubject: string(amd.Digest)}
	both := on(t, arm, "linux/riscv64") // the same manifest
	inner := s.index(t, arm, gone, both)
	root := s.index(t, amd, proof, inner, amd)

	tree, err := ReadTree(t.Context(), root, s.get)
	if err != nil {
		t.Fatal(err)
	}
	digests := func(list []Descriptor) (out []Digest) {
		for _, d := range list {
			out = append(out, d.Digest)
		}
		return out
	}
	if got, want := digests(tree.Documents()), digests([]Descriptor{root, amd, proof, inner, arm}); !slices.Equal(got, want) {
		t.Errorf("documents: got %v, want %v", got, want)
	}
	if got, want := digests(tree.Platforms()), digests([]Descriptor{amd, arm, gone, both}); !slices.Equal(got, want) {
		t.Errorf("platforms: got %v, want %v", got, want)
	}
	if chosen, err := Choose([]Platform{*both.Platform}, tree.Platforms()); err != nil || chosen[0].Digest != both.Digest {
		t.Errorf("the second platform of a manifest: got %v, %v", chosen, err)
	}
	if !tree.IsIndex() || !tree.Document(inner.Digest).Index || tree.Document(amd.Digest).Index || tree.Document(gone.Digest) != nil {
		t.Error("a document is not what it was")
	}
	for d, n := range s.asked {
		if n != 1 {
			t.Errorf("%s was asked for %d times", d, n)
		}
	}
}

func TestReadTreeOfOneManifest(t *testing.T) {
	s := newShelf()
	root := s.image("1")
	tree, err := ReadTree(t.Context(), root, s.get)
	if err != nil {
		t.Fatal(err)
	}
	if list := tree.Platforms(); tree.IsIndex() || len(list) != 1 || list[0].Digest != root.Digest {
		t.Errorf("got index %t, platforms %v", tree.IsIndex(), list)
	}
}

func TestReadTreeRefuses(t *testing.T) {
	s := newShelf()
	leaf := s.image("1")
	chain := func(n int) Descriptor {
		d := leaf
		for range n {
			d = s.index(t, d)
		}
		return d
	}
	if _, err := ReadTree(t.Context(), chain(maxIndexes), s.get); err != nil {
		t.Errorf("%d indexes: %v", maxIndexes, err)
	}
	longer := leaf
	longer.Size++
	large := leaf
	large.Digest, large.Size = hexes("5"), MaxDocument+1
	// The index claims to hold itself: the bytes behind the digest that it names are its own.
	loop := s.index(t, Descriptor{MediaType: OCIIndex, Digest: hexes("7"), Size: 234})
	s.docs[hexes("7")] = s.docs[loop.Digest]
	loop2 := loop
	loop2.Size = int64(len(s.docs[loop.Digest]))
	many := make([]Descriptor, maxDocuments)
	for i := range many {
		many[i] = Descriptor{MediaType: OCIManifest, Digest: Digest(fmt.Sprintf("sha256:%064x", i)), Size: 1}
	}
	big := make([]Descriptor, maxTree/MaxDocument)
	for i := range big {
		big[i] = Descriptor{MediaType: OCIManifest, Digest: Digest(fmt.Sprintf("sha256:%064x", i)), Size: MaxDocument}
	}
	bad := s.put(OCIManifest, `{"schemaVersion":2}`)

	for _, tt := range []struct {
		name, reason string
		root         Descriptor
		kind         error
	}{
		{"absent root", "", Descriptor{Digest: hexes("9"), Size: 1}, errdefs.ErrNotFound},
		{"bad digest", "digest", Descriptor{Digest: "x"}, errdefs.ErrInvalidArgument},
		{"too deep", "nested", chain(maxIndexes + 1), errdefs.ErrInvalidArgument},
		{"wrong size", "bytes where", s.index(t, longer), errdefs.ErrDataLoss},
		{"two sizes", "is said to have", s.index(t, leaf, longer), errdefs.ErrInvalidArgument},
		{"too large", "bytes in a manifest", s.index(t, large), errdefs.ErrInvalidArgument},
		{"contains itself", "", s.index(t, loop2), errdefs.ErrDataLoss},
		{"too many", "documents in one image", s.index(t, many...), errdefs.ErrInvalidArgument},
		{"too many bytes", "bytes of manifests", s.index(t, big...), errdefs.ErrInvalidArgument},
		{"bad document", "neither", s.index(t, bad), errdefs.ErrInvalidArgument},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadTree(t.Context(), tt.root, s.get)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("got %v, want %v and %q", err, tt.kind, tt.reason)
			}
		})
	}

	broken := errors.New("broken")
	_, err := ReadTree(t.Context(), leaf, func(context.Context, Descriptor) ([]byte, error) { return nil, broken })
	if !errors.Is(err, broken) {
		t.Errorf("a getter that fails: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadTree(ctx, leaf, s.get); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}
