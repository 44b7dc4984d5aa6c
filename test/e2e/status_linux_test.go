package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/program"
)

type (
	status     = program.Status
	peerStatus = program.Peer
)

// status asks for the state of the node's interface, and ends the test unless it follows the schema.
func (n *node) status() status {
	n.w.t.Helper()
	r := n.must("status", n.iface, "--json")
	s, err := program.DecodeStatus(r.stdout)
	if err != nil {
		n.w.t.Fatalf("%s: status --json: %v\n%s", n.name, err, r.stdout)
	}
	return s
}

// peerOf returns the peer with that key, and ends the test when there is none.
func peerOf(t testing.TB, s status, k key.Public) peerStatus {
	t.Helper()
	p, err := s.Find(k)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const ms = time.Millisecond

// reasonHas wants a reason with these words.
func reasonHas(words string) func(peerStatus) bool {
	return func(p peerStatus) bool { return strings.Contains(p.Reason, words) }
}
