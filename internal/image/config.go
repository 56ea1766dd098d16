package image

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// MaxConfig is the size in bytes of the largest config that is read. Configs carry a history
// line for every step of a build, and some builders put attestations in them.
const MaxConfig = 8 << 20

// A Config is what the config of an image says about the image itself; how to run it stays
// in Raw.
type Config struct {
	Platform Platform
	Created  time.Time // zero: unknown
	DiffIDs  []Digest  // lowest layer first
	History  int       // number of entries
	Raw      json.RawMessage
}

// ParseConfig reads the config of an image; [Document.IsImage] tells whether a manifest has
// one. Errors: [errdefs.ErrInvalidArgument], with the reason.
//
// Old builders left out the platform. A config without an operating system is taken for linux
// and one without an architecture for amd64, since nothing else was built when that happened.
func ParseConfig(b []byte) (*Config, error) {
	var f struct {
		Platform
		Created any `json:"created"`
		RootFS  struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
		History []struct{} `json:"history"`
	}
	if err := DecodeStrict(b, MaxConfig, &f); err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	c := &Config{Platform: f.Platform, DiffIDs: f.RootFS.DiffIDs, History: len(f.History), Raw: b}
	for i, d := range c.DiffIDs {
		if err := CheckDigest(d); err != nil {
			return nil, fmt.Errorf("read config: diff_ids[%d]: %w", i, err)
		}
	}
	if c.Platform.OS == "" {
		c.Platform.OS = "linux"
	}
	if c.Platform.Architecture == "" {
		c.Platform.Architecture = "amd64"
	}
	c.Platform = normalize(c.Platform)
	// A date that cannot be read makes no image unusable.
	if s, ok := f.Created.(string); ok {
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			c.Created = t
		}
	}
	return c, nil
}

// ChainIDs turns the diffIDs of an image, lowest layer first, into the names of its stacks:
// the nth stands for layer n on top of all those below it.
func ChainIDs(diffIDs []Digest) []Digest {
	chain := make([]Digest, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			chain[i] = d
			continue
		}
		chain[i] = digest.FromString(chain[i-1].String() + " " + d.String())
	}
	return chain
}
