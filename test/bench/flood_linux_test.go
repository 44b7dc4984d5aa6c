package bench

import (
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pion/stun"

	"github.com/wice-go/wice-go/test/natlab"
)

const (
	floodRate  = 10_000 // packets in a second
	floodTitle = " beside 10,000 STUN/s"
	// What the stream makes of what it made in the same tunnel just before or after without a flood.
	floodShare = "TCP, 1 stream" + floodTitle + ", share of that without"
)

// takeFlood measures a stream, and what is lost of packets at a fixed rate, while somebody sends what is none of WireGuard's to the port of
// the receiving end: half of it STUN that no agent expects, half of it noise. It is for direct paths, whose port anybody can reach.
func takeFlood(p *pair, add func(string, float64)) {
	if p.relay != nil || !p.interfaceAt(0) {
		return
	}
	begin := func() *flood {
		return startFlood(p, p.ends[0].host, netip.AddrPortFrom(p.ends[1].host.Addr4(), portNumber(p)))
	}
	stream := func() float64 {
		before := p.state()
		report := p.iperf3()
		p.carried(before, p.state(), 0, 1, report.Received.Bytes)
		return report.Received.BitsPerSecond / 1e6
	}
	var with, without float64
	steps := []func(){
		func() { without = stream() },
		func() {
			f := begin()
			with = stream()
			f.stop(p)
		},
	}
	for _, i := range rand.Perm(len(steps)) { // neither is always the one that warms up
		steps[i]()
	}
	add("TCP, 1 stream"+floodTitle+mbits, with)
	add(floodShare, with/without)

	f := begin()
	before := p.state()
	report := p.iperf3("-u", "-b", udpRate, "-l", strconv.Itoa(udpSize))
	p.carried(before, p.state(), 0, 1, (report.UDP.Packets-report.UDP.LostPackets)*udpSize)
	add(udpTitle+floodTitle+lost, report.UDP.LostPercent)
	f.stop(p)
}

func portNumber(p *pair) uint16 {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		p.t.Fatal(err)
	}
	return uint16(n)
}

// flood is a sender of garbage.
type flood struct {
	sent    atomic.Int64
	refused atomic.Int64
	started time.Time
	end     func()
}

func startFlood(p *pair, from *natlab.Host, to netip.AddrPort) *flood {
	p.t.Helper()
	var c *net.UDPConn
	if err := from.Do(func() (err error) {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	}); err != nil {
		p.t.Fatal(err)
	}
	f := &flood{started: time.Now()}
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		defer c.Close()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		noise := make([]byte, 100)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			// A late tick is made up for.
			for due := int64(time.Since(f.started).Seconds() * floodRate); f.sent.Load() < due; f.sent.Add(1) {
				b := noise
				if f.sent.Load()%2 == 0 {
					b = stun.MustBuild(stun.BindingRequest, stun.TransactionID, stun.NewUsername("nobody:knows"), stun.Fingerprint).Raw
				} else {
					crand.Read(noise)
				}
				if _, err := c.Write(b); errors.Is(err, syscall.ECONNREFUSED) { // about an earlier packet, as other errors are
					f.refused.Add(1)
				}
			}
		}
	})
	f.end = sync.OnceFunc(func() {
		close(done)
		running.Wait()
	})
	p.t.Cleanup(f.end)
	return f
}

// stop ends the flood, and the test if there was none, or nobody to receive it.
func (f *flood) stop(p *pair) {
	p.t.Helper()
	f.end()
	if rate := float64(f.sent.Load()) / time.Since(f.started).Seconds(); rate < floodRate*9/10 {
		p.t.Fatalf("%v: only %.0f packets a second were sent besides, want %d", p.variant, rate, floodRate)
	}
	if n := f.refused.Load(); n > 0 {
		p.t.Fatalf("%v: the port that is flooded is closed (%d refusals)", p.variant, n)
	}
}
