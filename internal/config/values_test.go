package config

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stowage/stowage/internal/registry/hosts"
)

// Every value is shown with who set it last.
func TestValues(t *testing.T) {
	file := write(t, "namespace = 'a'\nmax_concurrent = 2\n[gc]\nhigh = '85%'\n[registry]\nconfig_path = '/a'\n[cri]\npinned_images = ['p']\n")
	c, err := Load(file, env("HOME", "/h", "CONTAINERD_NAMESPACE", "b", "STOWAGE_ADDRESS", "/s"), 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Note("sync", "--sync")
	type row struct{ value, origin string }
	got := map[string]row{}
	for _, v := range c.Values() {
		b, err := json.Marshal(v.Value)
		if err != nil {
			t.Fatal(err)
		}
		got[v.Key] = row{string(b), v.Origin}
	}
	for key, want := range map[string]row{
		"root":              {`"/var/lib/stowage"`, "default"},
		"namespace":         {`"b"`, "CONTAINERD_NAMESPACE"},
		"sync":              {`"full"`, "--sync"},
		"hosts_dirs":        {`["/a"]`, file},
		"max_concurrent":    {`2`, file},
		"unpack.max_size":   {`0`, "default"},
		"gc.high":           {`"85%"`, file},
		"gc.low":            {`"85%"`, "default"}, // it follows from high
		"gc.grace":          {`"24h0m0s"`, "default"},
		"server.address":    {`"/s"`, "STOWAGE_ADDRESS"},
		"cri.pinned_images": {`["p"]`, file},
	} {
		if diff := cmp.Diff(want, got[key], cmp.AllowUnexported(row{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	if _, ok := got["registry"]; ok {
		t.Error("the registry section is among the values")
	}
}

// The documentation has every key, and the file in it is one that is read.
func TestDocumentation(t *testing.T) {
	b, err := os.ReadFile("../../doc/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```toml\n")
	text, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("there is no file in the documentation")
	}
	defaults, err := Load(write(t, ""), env("HOME", "/h"), 0)
	if err != nil {
		t.Fatal(err)
	}
	documented, err := Load(write(t, text), env("HOME", "/h"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaults, documented, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(Config{}), cmpopts.IgnoreTypes(hosts.Tables{})); diff != "" {
		t.Errorf("the defaults and those of the documentation (-want +got):\n%s", diff)
	}
	for _, v := range documented.Values() {
		name := v.Key[strings.LastIndex(v.Key, ".")+1:]
		if v.Origin == "default" && !strings.Contains(text, "\n#"+name+" = ") {
			t.Errorf("the documentation has no %s", v.Key)
		}
	}
}
