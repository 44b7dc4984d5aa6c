//go:build !linux || wice_portable

package bind

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// zones knows the interfaces that the zones of link-local addresses stand for. Go's net gives their names with each packet and takes
// them best, as it lists all interfaces of the host to send to a number that it does not know as a name. We need the numbers, and
// asking for one lists them too, which takes many times as long as the packet. The zero value is ready.
type zones struct {
	mu     sync.Mutex // guards all following; held while the system is asked, so that it is asked once
	at     time.Time
	names  map[string]string // by number
	scopes map[string]uint32 // by name
}

// zonesTTL is how long the list is kept: an interface can come back with another number.
const zonesTTL = time.Second

// refreshLocked lists the interfaces again if the list is old.
func (z *zones) refreshLocked() {
	if now := time.Now(); now.Sub(z.at) > zonesTTL {
		z.at, z.names, z.scopes = now, map[string]string{}, map[string]uint32{}
		ifaces, _ := net.Interfaces() // without a list, zones stay as they are
		for _, i := range ifaces {
			z.names[strconv.Itoa(i.Index)], z.scopes[i.Name] = i.Name, uint32(i.Index)
		}
	}
}

// source is sourceOf for an address that Go's net gave.
func (z *zones) source(ap netip.AddrPort) source {
	zone := ap.Addr().Zone()
	if zone == "" {
		return sourceOf(ap)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.refreshLocked()
	scope, ok := z.scopes[zone]
	if !ok {
		return sourceOf(ap)
	}
	return source{addr: ap.Addr().As16(), port: ap.Port(), scope: scope}
}

// named gives the address the zone that Go's net takes best.
func (z *zones) named(ap netip.AddrPort) netip.AddrPort {
	zone := ap.Addr().Zone()
	if zone == "" {
		return ap
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.refreshLocked()
	if name, ok := z.names[zone]; ok {
		return netip.AddrPortFrom(ap.Addr().WithZone(name), ap.Port())
	}
	return ap // a name already, or an interface that is gone
}
