package proto

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/wice-go/wice-go/proto/pb"
)

// Marshal returns the payload to seal: the offer with the timestamp of its envelope. It fails if the offer is not valid.
func (o *Offer) Marshal(ts Timestamp) ([]byte, error) {
	if err := errors.Join(ts.Validate(), o.Validate()); err != nil {
		return nil, fmt.Errorf("marshal offer: %w", err)
	}
	m := &pb.Offer{
		Id:              o.ID[:],
		Version:         o.Version,
		Eoc:             o.EOC,
		Ufrag:           o.Ufrag,
		Pwd:             o.Pwd,
		ProtocolVersion: o.ProtocolVersion,
		Features:        o.Features,
	}
	if !o.RID.IsZero() {
		m.Rid = o.RID[:]
	}
	for i := range o.Candidates {
		m.Candidates = append(m.Candidates, o.Candidates[i].toPB())
	}
	b, err := marshal(&pb.Payload{Timestamp: ts[:], Offer: m}, MaxPayloadSize)
	if err != nil {
		return nil, fmt.Errorf("marshal offer: %w", err)
	}
	return b, nil
}

// UnmarshalOffer reads an opened payload. The offer is valid: what breaks a limit is an error that says which field broke which bound, while
// candidates that can't or must not be used are left out and counted in [Offer.Unusable].
func UnmarshalOffer(b []byte) (*Offer, Timestamp, error) {
	o, ts, err := unmarshalOffer(b)
	if err != nil {
		return nil, Timestamp{}, fmt.Errorf("unmarshal offer: %w", err)
	}
	return o, ts, nil
}

func unmarshalOffer(b []byte) (o *Offer, ts Timestamp, err error) {
	var payload pb.Payload
	if err := unmarshal(b, &payload, MaxPayloadSize); err != nil {
		return nil, ts, err
	}
	if n := len(payload.GetTimestamp()); n != len(ts) {
		return nil, ts, fmt.Errorf("timestamp: %d bytes, want %d", n, len(ts))
	}
	ts = Timestamp(payload.GetTimestamp())
	if err := ts.Validate(); err != nil {
		return nil, ts, err
	}
	m := payload.GetOffer()
	if m == nil {
		return nil, ts, errors.New("offer: missing")
	}
	if err := atMost("candidates", len(m.GetCandidates()), MaxCandidates); err != nil {
		return nil, ts, err
	}
	o = &Offer{
		Version:         m.GetVersion(),
		EOC:             m.GetEoc(),
		Ufrag:           m.GetUfrag(),
		Pwd:             m.GetPwd(),
		ProtocolVersion: m.GetProtocolVersion(),
		Features:        m.GetFeatures(),
	}
	if n := len(m.GetId()); n != len(o.ID) {
		return nil, ts, fmt.Errorf("id: %d bytes, want %d", n, len(o.ID))
	}
	o.ID = SessionID(m.GetId())
	if n := len(m.GetRid()); n != 0 {
		if n != len(o.RID) {
			return nil, ts, fmt.Errorf("rid: %d bytes, want none or %d", n, len(o.RID))
		}
		o.RID = SessionID(m.GetRid())
	}
	for i, mc := range m.GetCandidates() {
		c, err := candidateFromPB(mc)
		if err != nil {
			return nil, ts, fmt.Errorf("candidates[%d]: %w", i, err)
		}
		if c.Validate() != nil {
			o.Unusable++
			continue
		}
		o.Candidates = append(o.Candidates, c)
	}
	return o, ts, o.validate()
}

func (c *Candidate) toPB() *pb.Candidate {
	m := &pb.Candidate{
		Type:       pb.CandidateType(c.Type),
		Network:    pb.NetworkType(c.Network),
		Address:    c.Address.Addr().AsSlice(),
		Port:       uint32(c.Address.Port()),
		Priority:   c.Priority,
		Foundation: c.Foundation,
		Component:  uint32(c.Component),
		TcpType:    pb.TCPType(c.TCPType),
	}
	if c.RelatedAddress.IsValid() {
		m.RelatedAddress = c.RelatedAddress.Addr().Unmap().AsSlice()
		m.RelatedPort = uint32(c.RelatedAddress.Port())
	}
	return m
}

// candidateFromPB fails on what breaks a size. Numbers out of range become zero, with which [Candidate.Validate] finds the candidate
// unusable: a newer peer may know more of them.
func candidateFromPB(m *pb.Candidate) (Candidate, error) {
	address, err := addrPortFromPB("address", m.GetAddress(), m.GetPort())
	if err != nil {
		return Candidate{}, err
	}
	related, err := addrPortFromPB("related address", m.GetRelatedAddress(), m.GetRelatedPort())
	if err != nil {
		return Candidate{}, err
	}
	if err := iceString("foundation", m.GetFoundation(), 0, MaxFoundation); err != nil {
		return Candidate{}, err
	}
	return Candidate{
		Type:           CandidateType(inRange(int32(m.GetType()), int(Relay)+1)),
		Network:        NetworkType(inRange(int32(m.GetNetwork()), int(TCP6)+1)),
		Address:        address,
		RelatedAddress: related,
		Priority:       m.GetPriority(),
		Foundation:     m.GetFoundation(),
		Component:      uint16(min(m.GetComponent(), 0xffff)),
		TCPType:        TCPType(inRange(int32(m.GetTcpType()), int(TCPSimultaneousOpen)+1)),
	}, nil
}

func addrPortFromPB(field string, b []byte, port uint32) (netip.AddrPort, error) {
	if port > 0xffff {
		return netip.AddrPort{}, fmt.Errorf("%s: port %d, want at most 65535", field, port)
	}
	if len(b) == 0 {
		return netip.AddrPort{}, nil
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%s: %d bytes, want 4 or 16", field, len(b))
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}
