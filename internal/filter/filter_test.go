package filter_test

import (
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"

	"github.com/stowage/stowage/internal/filter"
)

// things are what filters are tried on, each by its name.
var things = map[string]map[string]string{
	"plain":  {},
	"cache":  {"app": "cache", "app.kind": "true", "os": "linux"},
	"quoted": {`with \ and "`: "a, b", "app": "/x|y/"},
	"empty":  {"app": ""},
}

// fields are those of one of them.
func fields(name string) filter.Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "name":
			return name, true
		case "labels":
			return filter.Label(things[name], path[1:])
		}
		return "", false
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		name   string
		filter []string
		want   string // names in order
	}{
		{"none", nil, "cache empty plain quoted"},
		{"an empty one", []string{""}, "cache empty plain quoted"},
		{"an empty one among others", []string{"name==plain", ""}, "cache empty plain quoted"},
		{"present", []string{"labels.app"}, "cache empty quoted"},
		{"a key with dots", []string{"labels.app.kind==true"}, "cache"},
		{"a quoted key", []string{`labels."app.kind"`}, "cache"},
		{"escapes", []string{`labels."with \\ and \""=="a, b"`}, "quoted"},
		{"equal", []string{"name==cache"}, "cache"},
		{"equal to nothing is not absent", []string{`labels.app==""`}, "empty"},
		{"unequal", []string{"labels.app!=cache"}, "empty plain quoted"},
		{"all selectors", []string{"labels.app,labels.os!=linux"}, "empty quoted"},
		{"any expression", []string{"name==cache", "name==plain"}, "cache plain"},
		{"a pattern", []string{"name~=^(ca|pl)"}, "cache plain"},
		{"a pattern between slashes", []string{`labels.app~=/^\/x/,name`}, "quoted"},
		{"a pattern between bars", []string{`labels.app~=|x\|y|`}, "quoted"},
		{"a pattern of what is absent", []string{"labels.os~=^$"}, "empty plain quoted"},
		{"an unknown field", []string{"size"}, ""},
		{"spaces", []string{"name ==\tcache,  labels. os"}, "cache"},
		{"code points", []string{`name=="\x63\141\u0063h\U00000065"`}, "cache"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := filter.Parse(c.filter...)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := filters.ParseAll(c.filter...)
			if err != nil {
				t.Fatal(err)
			}
			var ours, measure []string
			for _, name := range []string{"cache", "empty", "plain", "quoted"} {
				if f.Match(fields(name)) {
					ours = append(ours, name)
				}
				if theirs.Match(filters.AdapterFunc(fields(name))) {
					measure = append(measure, name)
				}
			}
			if got := strings.Join(ours, " "); got != c.want {
				t.Errorf("%q matches %s; want %s", c.filter, got, c.want)
			}
			if got := strings.Join(measure, " "); got != c.want {
				t.Errorf("containerd's %q matches %s; want %s", c.filter, got, c.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, filter string }{
		{"a comma at the end", "name==a,"},
		{"a dot at the end", "labels."},
		{"a space at the end", "name "},
		{"no value", "name=="},
		{"no value before the next", "name~=,b"},
		{"no operator", "name b"},
		{"half an operator", "name=b"},
		{"a key that needs quotes", "labels.a/b==c"},
		{"a field in a pattern's quotes", "labels./a/==b"},
		{"a value in a pattern's quotes", "name==/a/"},
		{"a quote that does not end", `name=="a`},
		{"an escape that is none", `name=="\q"`},
		{"another quote's escape", `name=="\/"`},
		{"a zero byte", "name==a\x00"},
		{"no UTF-8", "name==a\xff"},
		{"a broken pattern", "name~=/(/"},
		{"more than there may be", "name==" + strings.Repeat("a", 64<<10)},
		{"a pattern of many steps", "name~=" + strings.Repeat("a", 200) + "{1000}|(" + strings.Repeat("b", 200) + "){1000}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := filter.Parse(c.filter); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%.100q: %v; want an invalid argument", c.filter, err)
			}
		})
	}
}

// What we read, containerd reads, and it matches the same; what we refuse, it refuses, but for
// what cannot be meant.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "name", "labels.app.kind==true,name!=plain", `labels."with \\ and \""==x`, `labels.app~=/^\/x/`, `name~=|c\|x|`,
		"name ==\tcache,  labels. os", `name=="\x63\141\u0063h\U00000065"`, "name==a b", "name=b", "name===b", "a~=(", "名==前", "name==前",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ours, err := filter.Parse(text)
		theirs, theirErr := filters.ParseAll(text)
		if err != nil {
			// A pattern that is none; escapes of halves of code points and of more than there
			// are; a filter beyond the limits.
			known := strings.Contains(text, "~=") || strings.Contains(text, `\u`) || strings.Contains(text, `\U`) || len(text) > 64<<10
			if theirErr == nil && !known {
				t.Fatalf("%q: %v; containerd reads it", text, err)
			}
			return
		}
		if theirErr != nil {
			t.Fatalf("%q is read; containerd says %v", text, theirErr)
		}
		for name := range things {
			if got, want := ours.Match(fields(name)), theirs.Match(filters.AdapterFunc(fields(name))); got != want {
				t.Fatalf("%q matches %s: %t; containerd says %t", text, name, got, want)
			}
		}
	})
}
