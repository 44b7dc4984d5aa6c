package bind

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
)

var testCredentials = Credentials{Username: "bbbb:aaaa", Password: "password-of-the-peer-bbbb", Controlling: true, Priority: 0x7effffff}

// A probe has exactly the size wanted, and all that a peer's agent asks for.
func TestBuildCheck(t *testing.T) {
	for _, size := range []int{200, 544, 1252, 1452, 8000} {
		for _, controlling := range []bool{true, false} {
			by := testCredentials
			by.Controlling = controlling
			b, err := buildCheck(by, size)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) != size || classify(b) != kindSTUN {
				t.Errorf("got %d bytes of kind %v, want %d of STUN", len(b), classify(b), size)
			}
			m := &stun.Message{Raw: b}
			if err := m.Decode(); err != nil || m.Type != stun.BindingRequest {
				t.Fatalf("got %v, %v", m.Type, err)
			}
			var name stun.Username
			var priority ice.PriorityAttr
			if name.GetFrom(m) != nil || name.String() != by.Username || priority.GetFrom(m) != nil || uint32(priority) != by.Priority {
				t.Errorf("got user name %q and priority %x", name, priority)
			}
			if m.Contains(stun.AttrICEControlling) != controlling || m.Contains(stun.AttrICEControlled) == controlling || m.Contains(stun.AttrUseCandidate) {
				t.Errorf("the attributes %v don't fit the role", m.Attributes)
			}
			if err := stun.NewShortTermIntegrity(by.Password).Check(m); err != nil {
				t.Error(err)
			}
			if err := stun.Fingerprint.Check(m); err != nil {
				t.Error(err)
			}
			if last := m.Attributes[len(m.Attributes)-3]; size > 200 && (last.Type != attrPadding || last.Type.Required()) {
				t.Errorf("got padding %v", last.Type)
			}
		}
	}
	if text := fmt.Sprintf("%v %+v", testCredentials, testCredentials); strings.Contains(text, testCredentials.Password) {
		t.Errorf("%q has the password", text)
	}
}

// Probes reach the connection of the peer's agent; what it signs is an answer, and nothing else is.
func TestProbe(t *testing.T) {
	a, b := openBind(t, loopbackOnly), openBind(t, loopbackOnly)
	agent := muxConnOf(t, b, "bbbb", "127.0.0.1")
	lo := netip.MustParseAddr("127.0.0.1")
	r := &checkRoute{mux: a.Mux(), path: NewDirectPath(lo, netip.AddrPortFrom(lo, b.port)), by: testCredentials}
	for _, c := range []struct {
		name, password string
		class          stun.MessageType
		want           bool
	}{
		{"answer", testCredentials.Password, stun.BindingSuccess, true},
		{"forged answer", "another password", stun.BindingSuccess, false},
		{"refusal", testCredentials.Password, stun.BindingError, false},
	} {
		answered := make(chan struct{}, 1)
		if err := r.probe(1252, func() { answered <- struct{}{} }); err != nil {
			t.Fatal(err)
		}
		req, src := read(t, agent)
		if len(req) != 1252 || src != netip.AddrPortFrom(lo, a.port) {
			t.Errorf("%s: got %d bytes from %s", c.name, len(req), src)
		}
		m := &stun.Message{Raw: req}
		if err := m.Decode(); err != nil {
			t.Fatal(err)
		}
		res := stun.MustBuild(m, c.class, stun.NewShortTermIntegrity(c.password), stun.Fingerprint)
		if _, err := agent.WriteTo(res.Raw, net.UDPAddrFromAddrPort(src)); err != nil {
			t.Fatal(err)
		}
		wait := time.After(patience)
		if !c.want {
			wait = time.After(100 * time.Millisecond)
		}
		select {
		case <-answered:
			if !c.want {
				t.Errorf("%s: taken for an answer", c.name)
			}
		case <-wait:
			if c.want {
				t.Errorf("%s: not within %v", c.name, patience)
			}
		}
	}
}
