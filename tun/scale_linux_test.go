package tun

import (
	"net/netip"
	"testing"
)

// TestHub adds and removes the routes of a hub of many peers. They are not written to the journal, which stays small.
func TestHub(t *testing.T) {
	newNamespace(t)
	openDevice(t, "wgt0")
	j, path := openTestJournal(t)
	c := Config{Addresses: prefixes("192.168.0.1/32")}
	for i := range 20000 {
		c.Routes = append(c.Routes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
	}
	d, err := Configure("wgt0", c, j)
	if err != nil {
		t.Fatal(err)
	}
	if size := fileSize(t, path); size > 1000 {
		t.Errorf("the journal has %d bytes", size)
	}
	if err := d.SetRoutes(c.Routes[:10]); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
