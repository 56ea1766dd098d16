package config

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestServer(t *testing.T) {
	for _, c := range []struct {
		name, text string
		env        []string
		uid        int
		want       Server
	}{
		{"defaults of root", "", []string{"XDG_RUNTIME_DIR", "/run/user/0"}, 0, Server{Address: "/run/stowage/stowage.sock", Fetch: true, Grace: Duration(30 * time.Second)}},
		{"defaults of a user", "", []string{"XDG_RUNTIME_DIR", "/run/user/7"}, 7, Server{Address: "/run/user/7/stowage/stowage.sock", Fetch: true, Grace: Duration(30 * time.Second)}},
		{"a file", "[server]\naddress = '/s'\ngroup = 'images'\nfetch = false\ngrace = '0s'\n", nil, 0, Server{Address: "/s", Group: "images"}},
		{
			"the environment", "[server]\naddress = '/s'\n",
			[]string{"STOWAGE_ADDRESS", "/e", "CONTAINERD_ADDRESS", "/run/containerd/containerd.sock"},
			0,
			Server{Address: "/e", Fetch: true, Grace: Duration(30 * time.Second)},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Load(write(t, c.text), env(append(c.env, "HOME", "/h")...), c.uid)
			if err != nil {
				t.Fatal(err)
			}
			if got.Server != c.want {
				t.Errorf("got %+v, want %+v", got.Server, c.want)
			}
		})
	}
	got, err := Load(write(t, "[doctor]\nschedule = '2h'"), env("HOME", "/h"), 0)
	if err != nil || got.Doctor.Schedule != Duration(2*time.Hour) {
		t.Errorf("a schedule: %+v, %v", got, err)
	}
	for text, want := range map[string]string{
		"[server]\ngrace = '-1s'": "grace -1s is below zero",
		"[server]\ntcp_address = ':1'\ntls_cert = '/c'\ntls_key = '/k'": "tcp_address takes tls_cert, tls_key and tls_ca",
		"[server]\ngrup = 'x'":       "unknown key server.grup",
		"[doctor]\nschedule = '-1s'": "schedule -1s is below zero",
	} {
		if _, err := Load(write(t, text), env("HOME", "/h"), 0); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want invalid argument with %q", text, err, want)
		}
	}
}
