package signal

import (
	"errors"
	"fmt"
	"io"

	"github.com/flynn/noise"

	"github.com/wice-go/wice-go/proto"
	"github.com/wice-go/wice-go/proto/key"
)

// prologue binds a seal to this protocol and version: nothing sealed for another purpose with the same keys opens here, or there.
const prologue = "wice-go signaling envelope v1"

var errSeal = errors.New("the seal does not open: forged, damaged, or for another key")

// sealer seals and opens with one identity. It is safe for concurrent use.
type sealer struct {
	static noise.DHKey
	public key.Public
	suite  noise.CipherSuite
	random io.Reader // nil: crypto/rand
}

func newSealer(identity key.Private) *sealer {
	public := identity.Public()
	return &sealer{
		static: noise.DHKey{Private: identity[:], Public: public[:]},
		public: public,
		suite:  noise.NewCipherSuite(noise.DH25519, noise.CipherChaChaPoly, noise.HashBLAKE2s),
	}
}

func (s *sealer) handshake(initiator bool, peer []byte) (*noise.HandshakeState, error) {
	return noise.NewHandshakeState(noise.Config{
		CipherSuite:   s.suite,
		Random:        s.random,
		Pattern:       noise.HandshakeX,
		Initiator:     initiator,
		Prologue:      []byte(prologue),
		StaticKeypair: s.static,
		PeerStatic:    peer,
	})
}

// seal returns the envelope that carries the payload to the peer.
func (s *sealer) seal(to key.Public, payload []byte) ([]byte, error) {
	hs, err := s.handshake(true, to[:])
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", to.Short(), err)
	}
	sealed, _, _, err := hs.WriteMessage(nil, payload)
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", to.Short(), err)
	}
	return (&proto.Envelope{Recipient: to, Sealed: sealed}).Marshal()
}

// open returns the payload of an envelope for this identity, and who sealed it.
func (s *sealer) open(e *proto.Envelope) (from key.Public, payload []byte, err error) {
	hs, err := s.handshake(false, nil)
	if err != nil {
		return from, nil, fmt.Errorf("open: %w", err)
	}
	payload, _, _, err = hs.ReadMessage(nil, e.Sealed)
	if err != nil || len(hs.PeerStatic()) != key.Size {
		return from, nil, errSeal // the library's words say less
	}
	return key.Public(hs.PeerStatic()), payload, nil
}
