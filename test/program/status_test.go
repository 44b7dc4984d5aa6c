package program

import (
	"strings"
	"testing"

	"github.com/wice-go/wice-go/proto/key"
)

const connected = `{"version":1,"interface":"wg0","publicKey":"k","listenPort":7,"tun":"kernel","signaling":[],"peers":[
	{"publicKey":"tHlV+cIMSYx0Bzxoh224pCk/y/bcMol5ZE2uz6/cPTM=","name":"b","allowedIPs":["10.0.0.2/32"],"state":"connected","reason":"","rxBytes":1,"txBytes":2,"restarts":0,
	"path":{"kind":"direct","local":{"type":"host","address":"192.0.2.1:7"},"remote":{"type":"host","address":"192.0.2.2:7"},"protocol":"udp"}}]}`

func TestDecodeStatus(t *testing.T) {
	s, err := DecodeStatus(connected)
	if err != nil {
		t.Fatal(err)
	}
	k, err := key.ParsePublic("tHlV+cIMSYx0Bzxoh224pCk/y/bcMol5ZE2uz6/cPTM=")
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Find(k)
	if err != nil || p.Path == nil || p.Path.Remote.Address != "192.0.2.2:7" {
		t.Errorf("got %v, %v", p, err)
	}
	if _, err := s.Find(key.Public{}); err == nil {
		t.Error("found a peer that is not there")
	}
	for old, with := range map[string]string{
		`"tun":"kernel",`:     ``,
		`"tun":"kernel"`:      `"tun":"tap"`,
		`"restarts":0`:        `"restart":0`,
		`"name":"b",`:         ``,
		`"state":"connected"`: `"state":"fine"`,
		`"kind":"direct"`:     `"kind":"magic"`,
		`"kind":"direct",`:    `"kind":"relay",`, // without a reason
		`"version":1`:         `"version":2`,
	} {
		if _, err := DecodeStatus(strings.Replace(connected, old, with, 1)); err == nil {
			t.Errorf("accepted %s in place of %s", with, old)
		}
	}
}

func FuzzDecodeStatus(f *testing.F) {
	f.Add(connected)
	f.Add(`{"version":1,"peers":[{}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := DecodeStatus(text)
		if err == nil && s.Version != 1 {
			t.Errorf("accepted %+v", s)
		}
	})
}
