package dir

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func exampleState(t testing.TB) state {
	t.Helper()
	sum, err := (&ingest{hash: sha256.New()}).marshalHash()
	if err != nil {
		t.Fatal(err)
	}
	return state{
		Key: "a key", Digest: digest.FromString(""), Size: 10, StartedAt: time.Unix(1, 2).UTC(), Offset: 5, Hash: sum, Boot: "b",
	}
}

func TestStateRoundTrip(t *testing.T) {
	long := exampleState(t)
	long.Key = strings.Repeat("\x01", 512)
	long.Digest = digest.SHA512.FromString("")
	for _, want := range []state{exampleState(t), long, {Key: "k", Size: -1}} {
		p, err := want.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeState(p)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
	}
}

// Every prefix of a state and every state with one byte changed is refused.
func TestDamagedStateIsRefused(t *testing.T) {
	p, err := exampleState(t).encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range p {
		if _, err := decodeState(p[:n]); !errors.Is(err, errState) {
			t.Fatalf("cut at %d: got %v, want %v", n, err, errState)
		}
		q := bytes.Clone(p)
		q[n] ^= 0x20
		if _, err := decodeState(q); !errors.Is(err, errState) {
			t.Fatalf("changed at %d: got %v, want %v", n, err, errState)
		}
	}
	for name, body := range map[string]string{
		"no JSON":           `{`,
		"no key":            `{"size":1}`,
		"strange digest":    `{"key":"k","digest":"../../x"}`,
		"negative offset":   `{"key":"k","size":-1,"offset":-1}`,
		"offset past size":  `{"key":"k","size":4,"offset":5}`,
		"size is no number": `{"key":"k","size":"x"}`,
		"too large":         `{"key":"k"` + strings.Repeat(" ", maxState) + `}`,
	} {
		p := fmt.Appendf(nil, "%s%x\n%s", stateMagic, sha256.Sum256([]byte(body)), body)
		if _, err := decodeState(p); !errors.Is(err, errState) {
			t.Errorf("%s: got %v, want %v", name, err, errState)
		}
	}
}

func FuzzState(f *testing.F) {
	p, err := exampleState(f).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p[stateHead:])
	f.Add([]byte(`{"key":"k","size":-1,"offset":1,"hash":"c2hhAw=="}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = decodeState(body) // as it is, it hardly ever has the right sum
		st, err := decodeState(fmt.Appendf(nil, "%s%x\n%s", stateMagic, sha256.Sum256(body), body))
		if err != nil {
			return
		}
		if st.Offset < 0 || st.Key == "" {
			t.Errorf("%q gives %+v", body, st)
		}
		_, _ = st.restore() // must not panic
		p, err := st.encode()
		if err != nil {
			return // a time that JSON reads and does not write
		}
		if len(p) > maxState {
			return
		}
		if again, err := decodeState(p); err != nil || !cmp.Equal(st, again) {
			t.Errorf("%+v comes back as %+v, %v", st, again, err)
		}
	})
}
