package registry

import (
	"slices"
	"strings"
)

// A challenge is one way in which a server asks for credentials, as RFC 9110 section 11.6.1 has it.
// The scheme and the names of parameters are in lower case.
type challenge struct {
	scheme string
	params map[string]string
}

// maxChallenge bounds a WWW-Authenticate header, in bytes.
const maxChallenge = 16 << 10

// parseChallenges reads the values of WWW-Authenticate. ok is false when something of them is
// malformed; what was read before that is returned all the same.
func parseChallenges(values []string) (list []challenge, ok bool) {
	for _, v := range values {
		if len(v) > maxChallenge {
			return list, false
		}
		for {
			v = strings.TrimLeft(v, " \t,")
			if v == "" {
				break
			}
			var c challenge
			if c, v, ok = parseChallenge(v); !ok {
				return list, false
			}
			list = append(list, c)
		}
	}
	return list, true
}

// parseChallenge reads one challenge, and returns what comes after it.
func parseChallenge(s string) (c challenge, rest string, ok bool) {
	scheme, s := cutToken(s)
	if scheme == "" || s != "" && !strings.ContainsRune(" \t,", rune(s[0])) {
		return c, s, false
	}
	c = challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
	if after, ok := cutToken68(strings.TrimLeft(s, " \t")); ok {
		return c, after, true
	}
	for {
		s = strings.TrimLeft(s, " \t,")
		name, after := cutToken(s)
		after = strings.TrimLeft(after, " \t")
		if name == "" || !strings.HasPrefix(after, "=") {
			return c, s, true // the end, or the next challenge
		}
		value, after, ok := cutValue(strings.TrimLeft(after[1:], " \t"))
		if !ok {
			return c, s, false
		}
		after = strings.TrimLeft(after, " \t")
		if after != "" && after[0] != ',' {
			return c, s, false
		}
		c.params[strings.ToLower(name)] = value
		s = after
	}
}

// cutValue takes a token or a quoted string from the beginning of s.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutToken(s)
		return value, rest, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", s, false
			}
		}
		b.WriteByte(s[i])
	}
	return "", s, false
}

// cutToken68 takes what some schemes have in place of parameters.
func cutToken68(s string) (rest string, ok bool) {
	end := strings.IndexFunc(s, func(r rune) bool { return !tokenRune(r) && r != '/' })
	if end < 0 {
		return "", s != ""
	}
	after := strings.TrimLeft(strings.TrimLeft(s[end:], "="), " \t")
	return after, end > 0 && (after == "" || after[0] == ',')
}

func cutToken(s string) (token, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool { return !tokenRune(r) })
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}

func tokenRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

// choose takes the challenge that is to be answered: a token rather than a password with every
// request. A Bearer challenge without a realm cannot be answered.
func choose(list []challenge) (challenge, bool) {
	for _, scheme := range []string{"bearer", "basic"} {
		i := slices.IndexFunc(list, func(c challenge) bool {
			return c.scheme == scheme && (scheme == "basic" || c.params["realm"] != "")
		})
		if i >= 0 {
			return list[i], true
		}
	}
	return challenge{}, false
}
