package libp2p

import (
	"errors"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/net/dns/dnsmessage"
)

const (
	// serviceName is wice's own, so that other libp2p programs neither see nor are seen.
	serviceName = "_wice._udp.local."

	// addrPrefix comes before each multiaddr in a TXT record, as in libp2p's mDNS specification.
	addrPrefix = "dnsaddr="

	// recordTTL is how long an announcement counts, in seconds (RFC 6762, section 10).
	recordTTL = 120

	// maxAnnounced bounds the addresses in one announcement, so that it fits into one packet of 1500 bytes (RFC 6762, section 17).
	maxAnnounced = 10

	// classFlush marks a record as unique to its sender (RFC 6762, section 10.2); the same bit in a question asks for a unicast
	// answer.
	classFlush = dnsmessage.Class(1 << 15)
)

var errNotOurs = errors.New("not about this service")

// query packs the question for the service.
func query() ([]byte, error) {
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(serviceName), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET,
	}}}
	return m.Pack()
}

// announcement packs the records that say where this node is. Instance is a label of its own for each start.
func announcement(instance string, addrs []ma.Multiaddr) ([]byte, error) {
	name, err := dnsmessage.NewName(instance + "." + serviceName)
	if err != nil {
		return nil, err
	}
	var txt []string
	for _, a := range addrs {
		if s := addrPrefix + a.String(); len(s) <= 255 && len(txt) < maxAnnounced {
			txt = append(txt, s)
		}
	}
	m := dnsmessage.Message{
		Header: dnsmessage.Header{Response: true, Authoritative: true},
		Answers: []dnsmessage.Resource{
			{
				Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(serviceName), Class: dnsmessage.ClassINET, TTL: recordTTL},
				Body:   &dnsmessage.PTRResource{PTR: name},
			},
			{
				Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET | classFlush, TTL: recordTTL},
				Body:   &dnsmessage.TXTResource{TXT: txt},
			},
		},
	}
	return m.Pack()
}

// parseMDNS reads a packet from the link: asked says that it asks for the service, infos where instances of it say that they are.
func parseMDNS(packet []byte) (asked bool, infos []peer.AddrInfo, err error) {
	var p dnsmessage.Parser
	header, err := p.Start(packet)
	if err != nil {
		return false, nil, err
	}
	if !header.Response {
		for {
			q, err := p.Question()
			if err != nil {
				return asked, nil, nil // the end, or garbage after what counts
			}
			if q.Type == dnsmessage.TypePTR && q.Class&^classFlush == dnsmessage.ClassINET && strings.EqualFold(q.Name.String(), serviceName) {
				asked = true
			}
		}
	}
	if err := p.SkipAllQuestions(); err != nil {
		return false, nil, err
	}
	var addrs []ma.Multiaddr
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			break
		}
		if h.Type != dnsmessage.TypeTXT || h.TTL == 0 || !strings.HasSuffix(strings.ToLower(h.Name.String()), "."+serviceName) {
			if err := p.SkipAnswer(); err != nil {
				break
			}
			continue
		}
		r, err := p.TXTResource()
		if err != nil {
			break
		}
		for _, t := range r.TXT {
			s, ok := strings.CutPrefix(t, addrPrefix)
			if !ok || len(addrs) >= maxAnnounced {
				continue
			}
			if a, err := ma.NewMultiaddr(s); err == nil {
				addrs = append(addrs, a)
			}
		}
	}
	if len(addrs) == 0 {
		return false, nil, errNotOurs
	}
	infos, err = peer.AddrInfosFromP2pAddrs(addrs...)
	return false, infos, err
}
