// Package pmtu finds the largest datagram that a path carries, by sending datagrams of several sizes and seeing which are answered
// (RFC 8899, datagram packetization layer path MTU discovery). It needs no ICMP, and does no input or output: [Machine] is told what
// happens and says what to send.
//
// Sizes are those of UDP payloads in bytes. Beside each probe goes one of [Base], which fits everywhere. The loss of a large probe
// counts only where its base probe was answered, so that neither a busy path nor a dead one looks small:
//
//	search:  full + base ------> full answered: rest
//	           | 3 x base alone answered
//	           v
//	         6 sizes between + base, until the largest that is answered is known: rest
//	rest:    2 s -> watch -> WireGuard sends something larger than Base -> the known size + base
//	                                                                       | answered: rest
//	                                                                       | 3 x base alone answered: search below
//	                                                                       | size < full, and the time has come: search above
//	silence: not even the base probe is answered: what was known stays, and is asked for again later
//
// A path that carries nothing large costs nothing while it is watched.
package pmtu

import "time"

const (
	// Base is the size that every path is taken to carry: with the headers of IPv4 and UDP it stays below the 576 bytes that each
	// host accepts (RFC 791).
	Base = dataOverhead + 32*dataUnit
	// Max is the size of the largest probe: pion/ice stops reading at messages of more than 8192 bytes.
	Max = 8000

	// WireGuard's datagrams carry 32 bytes more than the packet inside, which is padded to a multiple of 16.
	dataOverhead = 32
	dataUnit     = 16
)

const (
	probeInterval = 200 * time.Millisecond
	// maxLosses is RFC 8899's MAX_PROBES: so many losses in a row are none by chance.
	maxLosses = 3
	// maxAttempts ends a round without answers, some 4 s after its begin: the later intervals are longer, for slow paths.
	maxAttempts = 8
	maxInterval = 800 * time.Millisecond
	// reordering is how much later than the base probe's an answer may come: what is larger takes longer on a slow link.
	reordering = 100 * time.Millisecond
	// width is how many sizes are tried at once. With six, two rounds decide between all that differ on Ethernet.
	width = 6

	// checkInterval is the least time between two checks of a size that is in use. A transfer over a path that shrinks stalls for
	// about that long and the search.
	checkInterval = 2 * time.Second
	// silentInterval is the pause after a search that nobody answers: the path is dead, or the other side does not answer probes.
	silentInterval = 30 * time.Second
	// A smaller size than wanted is searched upwards again after the first, then at doubling intervals up to the second (RFC 8899,
	// PMTU_RAISE_TIMER).
	minRaise = time.Minute
	maxRaise = 10 * time.Minute
)

// Probe is a datagram to send. No two of a machine are the same.
type Probe struct {
	Number int // of the sending that it is part of
	Size   int
}

// Event is what happens to a [Machine]. The types below are all there are.
type Event interface{ isEvent() }

type (
	// Start begins the first search.
	Start struct{}

	// Large says that the path, while it was watched, was given a datagram larger than [Base].
	Large struct{}

	// Answered says that a probe has come through.
	Answered struct{ Probe Probe }

	// TooBig says that this host itself knows that a probe is too big for the path. Nothing was sent.
	TooBig struct{ Probe Probe }

	// Tick says that the time of [Machine.Next] has come. A tick that comes early or late does no harm.
	Tick struct{}
)

func (Start) isEvent()    {}
func (Large) isEvent()    {}
func (Answered) isEvent() {}
func (TooBig) isEvent()   {}
func (Tick) isEvent()     {}
