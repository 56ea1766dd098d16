package image

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
)

// ParsePlatform reads what a person types: os, architecture, os/architecture or
// os/architecture/variant, where an OS may be followed by its version in parentheses. What is
// left out is the host's. Errors: [errdefs.ErrInvalidArgument].
func ParsePlatform(s string) (Platform, error) {
	if len(s) > 256 {
		return Platform{}, fmt.Errorf("platform of %d characters: %w", len(s), errdefs.ErrInvalidArgument)
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return Platform{}, fmt.Errorf("platform: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return normalize(p), nil
}

// FormatPlatform writes p as [ParsePlatform] reads it, in one normal form: linux/amd64,
// linux/arm/v7, linux/arm64, windows(10.0.17763.1)/amd64, with features of the system
// linux(+x)/arm64. A platform with no OS is "unknown". Whatever an index says, the result is one
// line of printable characters.
func FormatPlatform(p Platform) string {
	if p.OS == "" {
		return "unknown"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, platforms.FormatAll(normalize(p)))
}

// Host is the platform this program runs on.
func Host() Platform {
	return normalize(platforms.DefaultSpec())
}

// Match tells whether an image for have runs on one of the platforms want. No platforms at all
// match every one.
func Match(want []Platform, have Platform) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w Platform) bool {
		_, ok := rank(w, have)
		return ok
	})
}

// Choose picks from candidates, the manifests of an index, the best for each platform in want,
// in the order of want and each once. No platforms at all choose every candidate.
//
// The best is the one with the highest variant that still runs; of equals, the first. Variants
// never cross an architecture: linux/arm64 does not choose linux/arm/v7, nor amd64 386.
// Attestations and the platform unknown are passed over. A candidate that does not say its
// platform is taken when no other fits. Errors: [errdefs.ErrNotFound], naming what is on offer.
func Choose(want []Platform, candidates []Descriptor) ([]Descriptor, error) {
	candidates = slices.DeleteFunc(slices.Clone(candidates), notForRunning)
	if len(want) == 0 {
		return candidates, nil
	}
	var chosen []Descriptor
	for _, w := range want {
		best, bestRank := -1, 0
		for i, c := range candidates {
			r, ok := anyPlatform, true
			if c.Platform != nil {
				r, ok = rank(w, *c.Platform)
			}
			if ok && (best < 0 || r > bestRank) {
				best, bestRank = i, r
			}
		}
		if best < 0 {
			return nil, fmt.Errorf("platform %s: on offer: %s: %w", FormatPlatform(w), offer(candidates), errdefs.ErrNotFound)
		}
		same := func(d Descriptor) bool { return d.Digest == candidates[best].Digest }
		if !slices.ContainsFunc(chosen, same) {
			chosen = append(chosen, candidates[best])
		}
	}
	return chosen, nil
}

// offer lists the platforms of an index for a message, which stays one line.
func offer(candidates []Descriptor) string {
	var names []string
	for _, c := range candidates {
		if name := FormatPlatform(*c.Platform); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > 20:
		names = append(names[:20], fmt.Sprintf("and %d more", n-20))
	}
	return strings.Join(names, ", ")
}

// anyPlatform ranks a candidate that does not say its platform, below every one that does.
const anyPlatform = -1 << 30

// rank tells whether an image for have runs where want is asked for, and how well: higher is
// better, and 0 is exact.
func rank(want, have Platform) (int, bool) {
	want, have = normalize(want), normalize(have)
	if want.OS != have.OS || want.Architecture != have.Architecture || !sameVersion(want, have) {
		return 0, false
	}
	behind, ok := variantsBehind(want, have)
	if !ok {
		return 0, false
	}
	r := -behind
	for _, f := range have.OSFeatures {
		if !slices.Contains(want.OSFeatures, f) {
			// It may well run: images state features that every host has. Others go first.
			r -= 10_000
		}
	}
	if want.OSVersion != have.OSVersion {
		r--
	}
	return r, true
}

// sameVersion compares OS versions. An image for Windows runs on its own build alone, so all
// but the last of the four numbers must be equal; elsewhere only what was asked for counts.
func sameVersion(want, have Platform) bool {
	switch {
	case want.OSVersion == "" || want.OSVersion == have.OSVersion:
		return true
	case want.OS != "windows":
		return false
	case have.OSVersion == "":
		return true
	}
	return windowsBuild(want.OSVersion) == windowsBuild(have.OSVersion)
}

func windowsBuild(version string) string {
	parts := strings.SplitN(version, ".", 4)
	return strings.Join(parts[:min(3, len(parts))], ".")
}

// variantsBehind counts by how many steps the variant of have is older than that of want.
func variantsBehind(want, have Platform) (int, bool) {
	if want.Variant == have.Variant {
		return 0, true
	}
	w, ok1 := level(want)
	h, ok2 := level(have)
	switch {
	case ok1 && ok2:
		return w - h, h <= w
	case want.Variant == "" || have.Variant == "":
		return 1, true
	}
	return 0, false
}

// level places a variant on the ladder of its architecture, where each step runs all below it.
func level(p Platform) (int, bool) {
	variant := p.Variant
	if variant == "" {
		switch p.Architecture {
		case "amd64":
			variant = "v1"
		case "arm":
			variant = "v7"
		case "arm64":
			variant = "v8"
		}
	}
	digits, ok := strings.CutPrefix(variant, "v")
	if !ok {
		return 0, false
	}
	digits, minorDigits, dotted := strings.Cut(digits, ".")
	major, err := strconv.ParseUint(digits, 10, 8)
	if err != nil {
		return 0, false
	}
	var minor uint64
	if dotted {
		if minor, err = strconv.ParseUint(minorDigits, 10, 4); err != nil {
			return 0, false
		}
	}
	switch p.Architecture {
	case "amd64", "arm":
		return int(major), !dotted
	case "arm64":
		// Armv9.0 has what Armv8.5 has.
		return int(major)*5 + int(minor), true
	}
	return 0, false
}

// normalize gives equal platforms one form.
func normalize(p Platform) Platform {
	os := p.OS
	p = platforms.Normalize(p)
	if os == "" {
		p.OS = "" // and not the host's
	}
	return p
}
