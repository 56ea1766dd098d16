package dir

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stowage/stowage/internal/content"
)

// A state is what is needed to go on with an ingest without reading its bytes. On disk it is a
// line with a version and a checksum, and the state as JSON: see doc/formats/content.md.
type state struct {
	Key       string        `json:"key"`
	Digest    digest.Digest `json:"digest,omitempty"`
	Size      int64         `json:"size"`
	StartedAt time.Time     `json:"startedAt"`
	Offset    int64         `json:"offset"`
	Hash      []byte        `json:"hash"`           // of the bytes before Offset, as crypto/… marshals it
	Boot      string        `json:"boot,omitempty"` // empty: those bytes were synced before
}

const (
	stateMagic = "stowage ingest 1 " // and the sha256 of the rest in hex, and a newline
	stateHead  = len(stateMagic) + 2*sha256.Size + 1
	// maxState bounds what is read: a key of 512 bytes takes six times that at most.
	maxState = 8 << 10
)

var errState = errors.New("not an ingest state of version 1")

func (st state) encode() ([]byte, error) {
	body, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s%x\n%s", stateMagic, sha256.Sum256(body), body), nil
}

// decodeState parses what a state file has. Whatever is not exactly what encode gives is refused.
func decodeState(p []byte) (state, error) {
	if len(p) < stateHead || len(p) > maxState || !bytes.HasPrefix(p, []byte(stateMagic)) {
		return state{}, errState
	}
	head, body := p[len(stateMagic):stateHead], p[stateHead:]
	sum := sha256.Sum256(body)
	if string(head) != hex.EncodeToString(sum[:])+"\n" {
		return state{}, errState
	}
	var st state
	if err := json.Unmarshal(body, &st); err != nil {
		return state{}, fmt.Errorf("%w: %w", errState, err)
	}
	if err := content.ValidateIngest(st.Key, st.want()); err != nil {
		return state{}, fmt.Errorf("%w: %w", errState, err)
	}
	if st.Offset < 0 || st.Size >= 0 && st.Offset > st.Size {
		return state{}, errState
	}
	return st, nil
}

func (st state) want() content.Want { return content.Want{Digest: st.Digest, Size: st.Size} }

// trusted tells whether a data file of size bytes has what the state says, given the present
// boot: what was not synced is there as long as the machine did not go down.
func (st state) trusted(size int64, boot string) bool {
	return st.Offset <= size && (st.Boot == "" || st.Boot == boot)
}

// restore gives the hash of the bytes before Offset.
func (st state) restore() (hash.Hash, error) {
	h := st.want().Algorithm().Hash()
	return h, h.(encoding.BinaryUnmarshaler).UnmarshalBinary(st.Hash)
}
