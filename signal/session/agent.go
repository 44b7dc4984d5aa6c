package session

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
	"github.com/pion/transport/v2/stdnet"

	"github.com/wice-go/wice-go/proto"
)

// Timing of an agent.
const (
	checkInterval       = 150 * time.Millisecond  // between two rounds of checks; see pacer for the sum of them
	keepaliveInterval   = 1200 * time.Millisecond // consent freshness, RFC 7675 asks for at most 5 s; with the answers below 2 packets a second
	disconnectedTimeout = 4 * time.Second         // three lost keepalives: then a restart begins beside the old pair. One is lost easily under load
	failedTimeout       = 20 * time.Second        // after disconnected; RFC 7675: 30 s
	reflexiveWait       = 200 * time.Millisecond  // a host pair is mostly validated by then, and is better
	relayWait           = 1300 * time.Millisecond // server-reflexive pairs need a STUN round trip and two rounds of checks
	relayOnlyWait       = 300 * time.Millisecond  // a relay over UDP is better than one over TCP
	tcpRelayDelay       = 500 * time.Millisecond  // two round trips of an allocation over UDP, which makes one over TCP needless
)

// maxBindingRequests is without meaning high: pion gives up pairs for good after so many checks, while the NAT that
// lets them through may be opened by a peer that comes late. The agent as a whole fails by its timeouts.
const maxBindingRequests = 10000

// tcpHeadStart is how long the checks over UDP have before those over TCP begin: pion nominates the first pair of host candidates that
// works, and carries data over UDP much better. It is less than what relays wait for.
const tcpHeadStart = 500 * time.Millisecond

const (
	maxRemoteCandidates = 30
	maxPairs            = 100 // RFC 8445, section 6.1.2.5
	minPerKind          = 2   // of the peer's candidates, in addition: one kind must not crowd out another
)

// mappingCache is what a mux implements too if it remembers what STUN servers said.
type mappingCache interface {
	// Expire forgets what is older. It is safe for concurrent use.
	Expire(age time.Duration)
}

// mappingAge is how old such an answer may be for a session that replaces another one, perhaps because it is no longer true. Many that
// restart at once share one.
const mappingAge = 2 * time.Second

// agentEvent is what an agent reports to the session.
type agentEvent struct {
	agent *agent
	what  any // one of the types below, or an ice.ConnectionState
}

type (
	localCandidate struct{ c ice.Candidate } // nil: that was all
	selectedPair   struct{ local, remote ice.Candidate }
	dialled        struct {
		conn *ice.Conn
		err  error
	}
	remotesSeen struct{ addrs []netip.AddrPort } // peer-reflexive ones
	lateRemote  struct{ c ice.Candidate }        // a TCP candidate of the peer whose time has come
)

// agent is one ICE agent with what is known of its negotiation.
type agent struct {
	// Constant after startAgent.
	generation uint64
	session    *Session
	ice        *ice.Agent
	ctx        context.Context // ends with the agent
	cancel     context.CancelFunc
	closing    sync.Once
	remoteMax  int
	pacer      *pacer
	relayPacer *pacer // of what goes through our own relays, which is no slower for the direct pairs
	gate       *relayGate
	net        *agentNet // nil before there is a configuration
	checks     Checks    // but for the priority
	relayIPv6  bool      // a TURN server has an IPv6 address

	// Owned by the goroutine that handles the session's mailbox.
	locals, remotes []proto.Candidate
	prflx           []netip.AddrPort // of the peer, learned by its checks
	gathered        bool
	refused         int // remote candidates that broke a rule
	conn            *ice.Conn
	selected        selectedPair
	lost            bool // disconnected
}

// startAgent makes an agent and has it gather and check.
func (s *Session) startAgent(a StartAgent) {
	ctx, cancel := context.WithCancel(s.ctx)
	ag := &agent{generation: a.Generation, session: s, ctx: ctx, cancel: cancel, pacer: newPacer(), relayPacer: newPacer(), gate: newRelayGate(time.Now())}
	ag.checks = Checks{Username: a.RemoteUfrag + ":" + a.LocalUfrag, Password: a.RemotePwd, Controlling: s.controlling()}
	s.agents[a.Generation] = ag
	s.servers = slices.Clone(s.opts.ICEServers())
	if m, ok := s.opts.Mux.(mappingCache); ok && a.Generation > 1 {
		m.Expire(mappingAge)
	}
	config, err := s.agentConfig(ag, a)
	if err == nil {
		ag.ice, err = ice.NewAgent(config)
	}
	if err != nil {
		s.log.Warn("ICE agent not made", "generation", a.Generation, "error", err)
		ag.post(ice.ConnectionStateFailed)
		return
	}
	s.log.Debug("ICE agent starts", "generation", a.Generation, "servers", len(config.Urls))
	s.work.Go(func() {
		conn, err := ag.connect(a)
		ag.post(dialled{conn, err})
	})
}

// connect runs until a pair is selected or the agent is closed.
func (ag *agent) connect(a StartAgent) (*ice.Conn, error) {
	// None of these registrations can fail in pion v2.
	_ = ag.ice.OnCandidate(func(c ice.Candidate) { ag.post(localCandidate{c}) })
	_ = ag.ice.OnConnectionStateChange(func(st ice.ConnectionState) { ag.post(st) })
	_ = ag.ice.OnSelectedCandidatePairChange(func(l, r ice.Candidate) { ag.post(selectedPair{l, r}) })
	if err := ag.ice.GatherCandidates(); err != nil {
		return nil, err
	}
	if ag.session.controlling() {
		return ag.ice.Dial(ag.ctx, a.RemoteUfrag, a.RemotePwd)
	}
	return ag.ice.Accept(ag.ctx, a.RemoteUfrag, a.RemotePwd)
}

// controlling reports whether our agents are the controlling ones.
func (s *Session) controlling() bool { return s.opts.Local.Compare(s.opts.Remote) < 0 }

func (ag *agent) post(what any) { ag.session.post(agentEvent{ag, what}) }

// agentConfig says how the session's agents work.
func (s *Session) agentConfig(ag *agent, a StartAgent) (*ice.AgentConfig, error) {
	inner := s.opts.Net
	if inner == nil {
		var err error
		if inner, err = stdnet.NewNet(); err != nil {
			return nil, err
		}
	}
	mux := &agentMux{UniversalUDPMux: s.opts.Mux, ctx: ag.ctx, allowed: s.localAllowed, pacer: ag.pacer, gate: ag.gate}
	urls := stunURIs(s.servers, s.opts.CandidateTypes, s.log)
	locals := len(mux.GetListenAddresses()) + len(urls)
	ag.remoteMax = min(max(maxPairs/max(locals, 1), 4), maxRemoteCandidates)
	var types []ice.CandidateType
	for _, t := range s.opts.CandidateTypes {
		if t != proto.PeerReflexive { // nothing to gather
			types = append(types, pionType(t))
		}
	}
	var networks []ice.NetworkType
	for _, t := range s.networkTypes() {
		networks = append(networks, pionNetwork(t))
	}
	var tcpDelay time.Duration
	if slices.ContainsFunc(urls, func(u *stun.URI) bool { return u.Scheme == stun.SchemeTypeTURN && u.Proto == stun.ProtoTypeUDP }) {
		tcpDelay = tcpRelayDelay
	}
	ag.relayIPv6 = slices.ContainsFunc(urls, func(u *stun.URI) bool {
		a, err := netip.ParseAddr(u.Host)
		return err == nil && a.Is6() && (u.Scheme == stun.SchemeTypeTURN || u.Scheme == stun.SchemeTypeTURNS)
	})
	wait := relayWait
	if !s.ownDirect() {
		wait = relayOnlyWait
	}
	ag.net = &agentNet{
		Net: inner, ctx: ag.ctx, tcpDelay: tcpDelay, ipv6: ag.relayIPv6, pacer: ag.relayPacer, servers: s.servers, stream: s.opts.RelayStream,
	}
	return &ice.AgentConfig{
		Urls:                   urls,
		LocalUfrag:             a.LocalUfrag,
		LocalPwd:               a.LocalPwd,
		MulticastDNSMode:       ice.MulticastDNSModeDisabled,
		DisconnectedTimeout:    ptr(s.opts.timeouts.disconnected),
		FailedTimeout:          ptr(s.opts.timeouts.failed),
		KeepaliveInterval:      ptr(s.opts.timeouts.keepalive),
		CheckInterval:          ptr(checkInterval),
		HostAcceptanceMinWait:  ptr(time.Duration(0)),
		SrflxAcceptanceMinWait: ptr(reflexiveWait),
		PrflxAcceptanceMinWait: ptr(reflexiveWait),
		RelayAcceptanceMinWait: ptr(wait),
		MaxBindingRequests:     ptr(uint16(maxBindingRequests)),
		CandidateTypes:         types,
		NetworkTypes:           networks,
		LoggerFactory:          loggerFactory{s.log},
		Net:                    ag.net,
		ProxyDialer:            relayDialer{ag.net},
		IPFilter:               func(ip net.IP) bool { addr, ok := netip.AddrFromSlice(ip); return ok && s.usable(addr.Unmap()) },
		IncludeLoopback:        s.opts.IncludeLoopback,
		UDPMux:                 mux,
		UDPMuxSrflx:            mux,
		TCPMux:                 s.opts.TCPMux,
		DisableActiveTCP:       !slices.Contains(types, ice.CandidateTypeHost),
	}, nil
}

func ptr[T any](v T) *T { return &v }

// closeAgent takes an agent out and ends it, in a goroutine of its own.
func (s *Session) closeAgent(a CloseAgent) {
	ag := s.agents[a.Generation]
	if ag == nil {
		return
	}
	delete(s.agents, a.Generation)
	s.work.Go(func() {
		if a.Grace > 0 {
			timer := time.NewTimer(a.Grace)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-s.ctx.Done():
			}
		}
		ag.close()
	})
}

// close ends the agent and waits for its goroutines. Nobody else closes it: pion panics if two do at once.
func (ag *agent) close() {
	ag.closing.Do(func() {
		ag.cancel() // cuts short what gathering waits for
		if ag.ice == nil {
			return
		}
		if err := ag.ice.GracefulClose(); err != nil {
			ag.session.log.Debug("ICE agent not closed", "generation", ag.generation, "error", err)
		}
	})
}

// full reports whether there is no room for a candidate of the peer. Whatever came before it, there is for a few of each kind: relays
// come last, and may be all that works.
func (ag *agent) full(c proto.Candidate) bool {
	alike := 0
	for _, r := range ag.remotes {
		if r.Type == c.Type && r.Network == c.Network {
			alike++
		}
	}
	return len(ag.remotes) >= maxRemoteCandidates || len(ag.remotes) >= ag.remoteMax && alike >= minPerKind
}

// addRemote gives the agent the candidates that it does not have yet. What breaks a rule is counted and left out.
func (ag *agent) addRemote(cands []proto.Candidate) {
	if ag.ice == nil {
		return
	}
	for _, c := range cands {
		if slices.ContainsFunc(ag.remotes, func(r proto.Candidate) bool { return sameCandidate(r, c) }) {
			continue
		}
		if ag.full(c) || !ag.session.remoteAllowed(c) {
			ag.refused++
			continue
		}
		p, err := toPion(c)
		if err != nil {
			ag.refused++
			continue
		}
		ag.remotes = append(ag.remotes, c)
		if c.Type == proto.Relay {
			ag.gate.announce(c.Address)
		}
		if c.Network.IsTCP() && slices.ContainsFunc(ag.session.networkTypes(), func(n proto.NetworkType) bool { return !n.IsTCP() }) {
			time.AfterFunc(tcpHeadStart, func() { ag.post(lateRemote{p}) })
			continue
		}
		ag.check(p)
	}
}

// check has the agent check a candidate of the peer.
func (ag *agent) check(c ice.Candidate) {
	if err := ag.ice.AddRemoteCandidate(c); err != nil {
		ag.session.log.Debug("remote candidate not added", "candidate", c, "error", err)
	}
}

// handleAgent takes what an agent reports.
func (s *Session) handleAgent(ev agentEvent) {
	ag := ev.agent
	if s.agents[ag.generation] != ag {
		return // closed since
	}
	switch what := ev.what.(type) {
	case localCandidate:
		s.localCandidate(ag, what.c)
	case selectedPair:
		ag.selected = what
		ag.pacer.stop()
		ag.relayPacer.stop()
		s.selected(ag, false)
	case dialled:
		if what.err != nil {
			s.log.Debug("ICE agent ended before it was connected", "generation", ag.generation, "error", what.err)
			s.failed(ag)
			return
		}
		ag.conn = what.conn
		s.selected(ag, false)
	case remotesSeen:
		ag.prflx = what.addrs
	case lateRemote:
		if ag.conn == nil {
			ag.check(what.c)
		}
	case ice.ConnectionState:
		s.log.Debug("ICE state", "generation", ag.generation, "state", what)
		switch what {
		case ice.ConnectionStateConnected:
			s.selected(ag, ag.lost)
		case ice.ConnectionStateDisconnected:
			ag.lost = true
			s.step(AgentDisconnected{ag.generation})
		case ice.ConnectionStateFailed, ice.ConnectionStateClosed:
			s.failed(ag)
		}
	}
}

// failed gives the agent up.
func (s *Session) failed(ag *agent) {
	s.lastFailure = s.failure(ag)
	s.log.Debug("ICE failed", "generation", ag.generation, "reason", s.lastFailure)
	s.step(AgentFailed{ag.generation})
}

// selected reports the agent as connected once all is known that makes a path, and keeps the path up to date.
func (s *Session) selected(ag *agent, again bool) {
	if ag.conn == nil || ag.selected.local == nil {
		return
	}
	ag.lost = false
	if s.active == ag && !again {
		s.setPath(ag.path())
		return
	}
	p := ag.path()
	detour := p.Relayed || p.Network.IsTCP()
	s.step(AgentConnected{Generation: ag.generation, Relayed: detour, Improvable: detour && s.directConceivable(ag)})
	if p.Relayed {
		s.work.Go(ag.lookForReflexive)
	}
}

// lookForReflexive finds out from where the peer's checks came: it tells something about the NAT in front of it.
func (ag *agent) lookForReflexive() {
	cands, err := ag.ice.GetRemoteCandidates()
	if err != nil {
		return
	}
	var addrs []netip.AddrPort
	for _, c := range cands {
		if c.Type() == ice.CandidateTypePeerReflexive {
			addrs = append(addrs, candidateAddr(c))
		}
	}
	ag.post(remotesSeen{addrs})
}

// localCandidate announces a candidate of ours.
func (s *Session) localCandidate(ag *agent, c ice.Candidate) {
	ev := CandidatesGathered{Generation: ag.generation, EOC: c == nil}
	if c == nil {
		ag.gathered = true
	} else if p, ok := s.fromPion(c); ok {
		ag.locals = append(ag.locals, p)
		ev.Candidates = []proto.Candidate{s.withoutLeak(p)}
	} else {
		return
	}
	s.step(ev)
}
