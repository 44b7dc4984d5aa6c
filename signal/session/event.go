package session

import (
	"time"

	"github.com/wice-go/wice-go/proto"
)

// Event is what happens to a [Machine]. The types below are all there are.
type Event interface{ isEvent() }

type (
	// Tick says that the time of [Machine.Next] has come. A tick that comes early or late does no harm.
	Tick struct{}

	// Start begins the negotiation of an idle machine.
	Start struct{}

	// Sleep ends the session on purpose and tells the peer, so that a lazy peer sleeps too instead of restarting.
	Sleep struct{}

	// OfferReceived has an offer of the peer, opened and validated by the caller. The machine keeps it.
	OfferReceived struct{ Offer *proto.Offer }

	// PeerAvailable says that a backend can reach the peer now.
	PeerAvailable struct{}

	// NetworkChanged says that local addresses or the local port are others than before.
	NetworkChanged struct{}

	// ServersChanged says that there are other STUN or TURN servers than those that the last gathering used.
	ServersChanged struct{}

	// LazySet says whether the machine is to be lazy from now on.
	LazySet struct{ Lazy bool }

	// RestartRequested asks for a new session.
	RestartRequested struct{}

	// CandidatesGathered has local candidates that were not there before.
	CandidatesGathered struct {
		Generation uint64
		Candidates []proto.Candidate
		EOC        bool // there will be no more
	}

	// AgentConnected says that the agent selected a pair, or that its pair answers again.
	AgentConnected struct {
		Generation uint64
		Relayed    bool // the pair is a detour: over a relay or TCP
		Improvable bool // both sides have candidates for a better one
	}

	// AgentDisconnected says that the agent's pair has not answered for a while. It may come back.
	AgentDisconnected struct{ Generation uint64 }

	// AgentFailed says that the agent gave up.
	AgentFailed struct{ Generation uint64 }
)

func (Tick) isEvent()               {}
func (Start) isEvent()              {}
func (Sleep) isEvent()              {}
func (OfferReceived) isEvent()      {}
func (PeerAvailable) isEvent()      {}
func (NetworkChanged) isEvent()     {}
func (ServersChanged) isEvent()     {}
func (LazySet) isEvent()            {}
func (RestartRequested) isEvent()   {}
func (CandidatesGathered) isEvent() {}
func (AgentConnected) isEvent()     {}
func (AgentDisconnected) isEvent()  {}
func (AgentFailed) isEvent()        {}

// Action is what a [Machine] wants done, in the order given. The types below are all there are.
type Action interface{ isAction() }

type (
	// SendOffer gives an offer to the signaling. It is the receiver's from then on.
	SendOffer struct{ Offer *proto.Offer }

	// StartAgent makes an ICE agent, starts its gathering and its checks. Agents of other generations live on beside it.
	StartAgent struct {
		Generation             uint64
		LocalUfrag, LocalPwd   string
		RemoteUfrag, RemotePwd string
	}

	// AddCandidates has the peer's candidates; some of them may have been added before.
	AddCandidates struct {
		Generation uint64
		Candidates []proto.Candidate
	}

	// CloseAgent ends an agent: after Grace, in which the peer may still send over it.
	CloseAgent struct {
		Generation uint64
		Grace      time.Duration
	}

	// UsePath makes the agent's selected pair the one that carries data.
	UsePath struct{ Generation uint64 }

	// DropPath says that no agent has a working pair.
	DropPath struct{}
)

func (SendOffer) isAction()     {}
func (StartAgent) isAction()    {}
func (AddCandidates) isAction() {}
func (CloseAgent) isAction()    {}
func (UsePath) isAction()       {}
func (DropPath) isAction()      {}
