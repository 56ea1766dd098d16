package cri

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever a config says, what is told of its user can be sent.
func FuzzUser(f *testing.F) {
	for _, s := range []string{
		`{"config":{"User":"www:1000"}}`, `{"config":{"User":5}}`, `{"config":[],"User":"a"}`, `{"Config":{"user":"\ud800"}}`, `{`, "",
		`{"config":{"User":"` + strings.Repeat("é", 200) + `"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		if user := userOf(config); len(user) > maxUser || !utf8.ValidString(user) || strings.Contains(user, ":") {
			t.Errorf("%q has the user %q", config, user)
		}
		if info, err := verbose(config); err == nil && !utf8.ValidString(info) {
			t.Errorf("%q gives %q", config, info)
		}
	})
}
