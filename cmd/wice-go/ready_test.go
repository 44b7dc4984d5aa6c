package main

import (
	"os"
	"slices"
	"testing"
)

func TestDaemonEnvironment(t *testing.T) {
	t.Setenv("WICE_SOCKS5", "before")
	env := upFlags{iceServers: []string{"turn:a:b@192.0.2.1", "stun:192.0.2.2"}, socks5: "after"}.environ()
	for _, want := range []string{"WICE_ICE_SERVER=turn:a:b@192.0.2.1\nstun:192.0.2.2", "WICE_SOCKS5=after", "WICE_HTTP_PROXY="} {
		if !slices.Contains(env, want) {
			t.Errorf("no %q", want)
		}
	}
	if slices.Contains(env, "WICE_SOCKS5=before") {
		t.Error("the old value is there too")
	}
	// What a command is run with that is not the daemon.
	if own := os.Getenv("WICE_SOCKS5"); own != "before" || os.Getenv("WICE_ICE_SERVER") != "" {
		t.Errorf("our own environment has %q", own)
	}
}
