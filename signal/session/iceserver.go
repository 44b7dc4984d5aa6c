package session

import (
	"log/slog"
	"slices"

	"github.com/pion/stun"

	"github.com/wice-go/wice-go/proto"
)

// stunURIs converts the servers that are of use for the candidate types. A TURN server serves as a STUN server too.
func stunURIs(servers []proto.ICEServer, types []proto.CandidateType, log *slog.Logger) []*stun.URI {
	reflexive, relay := slices.Contains(types, proto.ServerReflexive), slices.Contains(types, proto.Relay)
	var uris []*stun.URI
	for _, s := range servers {
		u := &stun.URI{Host: s.Host, Port: int(s.Port), Username: s.Username, Password: s.Password, Proto: stun.ProtoTypeUDP}
		if s.Transport == proto.TransportTCP {
			u.Proto = stun.ProtoTypeTCP
		}
		switch s.Scheme {
		case proto.STUN:
			u.Scheme = stun.SchemeTypeSTUN
			if !reflexive || s.Transport == proto.TransportTCP {
				continue // what TCP shows is not the address that UDP is seen from
			}
		case proto.TURN, proto.TURNS:
			u.Scheme = stun.SchemeTypeTURN
			if s.Scheme == proto.TURNS {
				u.Scheme = stun.SchemeTypeTURNS
			}
			if !relay && !reflexive {
				continue
			}
			if s.Username == "" || s.Password == "" { // pion stops at the first of these, the others would be lost
				log.Warn("TURN server without user name or password is left out", "host", s.Host)
				continue
			}
		default: // STUN over TLS: for the same reason as over TCP
			continue
		}
		uris = append(uris, u)
	}
	return uris
}
