package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

const (
	// maxDepth bounds how deep JSON may be nested. A descriptor in an index sits at 4.
	maxDepth = 64
	// maxEntries bounds each array and each object: layers of a manifest, manifests of an
	// index, annotations. With the limit on bytes it bounds the memory that parsing takes.
	maxEntries = 10_000
)

// DecodeStrict decodes the one JSON value b into v. It refuses what readers may understand in
// different ways: bytes that are not UTF-8, keys that stand twice in an object, and keys that
// differ only by case, which Go's decoder takes for the same. More than limit bytes, and lists
// or objects of more than 10,000 entries, are refused too. All is [errdefs.ErrInvalidArgument].
func DecodeStrict(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("%d bytes are more than the limit of %d: %w", len(b), limit, errdefs.ErrInvalidArgument)
	}
	if !utf8.Valid(b) {
		return fmt.Errorf("not UTF-8: %w", errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(b, new(json.RawMessage)); err != nil {
		return fmt.Errorf("not JSON: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	s := scanner{json.NewDecoder(bytes.NewReader(b))}
	s.UseNumber()
	if err := s.value(0, false); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	err := json.Unmarshal(b, v)
	if wrong := new(json.UnmarshalTypeError); errors.As(err, &wrong) {
		if wrong.Field == "" {
			return fmt.Errorf("it is not an object: %s: %w", wrong.Value, errdefs.ErrInvalidArgument)
		}
		return fmt.Errorf("%s cannot be a %s: %w", wrong.Field, wrong.Value, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// A scanner walks JSON that is known to be well-formed and looks at its keys.
type scanner struct{ *json.Decoder }

// value passes over one value. The keys of a free object are data, chosen by the image's
// author, so that case tells them apart.
func (s scanner) value(depth int, free bool) error {
	if depth > maxDepth {
		return fmt.Errorf("nested more than %d deep", maxDepth)
	}
	t, err := s.Token()
	switch t {
	case json.Delim('{'):
		return s.object(depth, free)
	case json.Delim('['):
		return s.array(depth)
	}
	return err
}

func (s scanner) array(depth int) error {
	for n := 0; s.More(); n++ {
		if n == maxEntries {
			return fmt.Errorf("a list of more than %d", maxEntries)
		}
		if err := s.value(depth+1, false); err != nil {
			return err
		}
	}
	_, err := s.Token()
	return err
}

func (s scanner) object(depth int, free bool) error {
	seen := map[string]string{}
	for s.More() {
		if len(seen) == maxEntries {
			return fmt.Errorf("an object of more than %d keys", maxEntries)
		}
		t, err := s.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string) // nothing else is well-formed
		folded := key
		if !free {
			folded = fold(key)
		}
		switch first, dup := seen[folded]; {
		case dup && first == key:
			return fmt.Errorf("the key %.100q stands twice in one object", key)
		case dup:
			return fmt.Errorf("the keys %.100q and %.100q of one object differ only by case", first, key)
		}
		seen[folded] = key
		if err := s.value(depth+1, freeKeys[fold(key)]); err != nil {
			return err
		}
	}
	_, err := s.Token()
	return err
}

// freeKeys are the fields, of documents and configs, whose objects have free keys.
var freeKeys = map[string]bool{
	fold("annotations"):  true,
	fold("Labels"):       true,
	fold("Volumes"):      true,
	fold("ExposedPorts"): true,
}

// fold makes equal what Go's JSON decoder takes for the same field name.
func fold(key string) string {
	return strings.Map(func(r rune) rune {
		low := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			low = min(low, next)
		}
		return low
	}, key)
}
