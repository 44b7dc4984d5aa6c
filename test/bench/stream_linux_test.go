package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/proxy"
)

// streamBuffer is how many bytes one call writes or reads at most: as many as iperf3's.
const streamBuffer = 128 << 10

// What the first byte of a connection asks of the server.
const (
	streamSend    = 's'
	streamReceive = 'r'
)

// streams is a server that sends or receives as much as it can. It stands beside iperf3, as that speaks no SOCKS.
type streams struct {
	listener net.Listener
	received atomic.Int64
}

// serveStreams starts the server at the second end.
func serveStreams(p *pair) *streams {
	p.t.Helper()
	s := new(streams)
	err := p.ends[1].host.Do(func() (err error) {
		s.listener, err = net.Listen("tcp", net.JoinHostPort(p.ends[1].addr.String(), streamPort))
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { s.serve(c) })
		}
	})
	p.t.Cleanup(func() {
		s.listener.Close()
		tasks.Wait() // connections end with the clients that made them
	})
	return s
}

func (s *streams) serve(c net.Conn) {
	defer c.Close()
	var what [1]byte
	if _, err := io.ReadFull(c, what[:]); err != nil {
		return
	}
	if what[0] == streamSend {
		sendAll(c)
		return
	}
	receiveAll(c, &s.received)
}

// sendAll and receiveAll go on until the connection ends.
func sendAll(c net.Conn) {
	b := make([]byte, streamBuffer)
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func receiveAll(c net.Conn, n *atomic.Int64) {
	b := make([]byte, streamBuffer)
	for {
		got, err := c.Read(b)
		n.Add(int64(got))
		if err != nil {
			return
		}
	}
}

// dialStream connects a program of the first end with the server.
func (p *pair) dialStream() (c net.Conn, err error) {
	dial, to := (&net.Dialer{Timeout: patience}).Dial, net.JoinHostPort(p.serverAddr().String(), streamPort)
	if p.variant.kind.socks {
		client, err := proxy.SOCKS5("tcp", net.JoinHostPort(loopback.String(), socksPort), nil, &net.Dialer{Timeout: patience})
		if err != nil {
			return nil, err
		}
		dial, to = client.Dial, net.JoinHostPort(p.ends[1].addr.String(), streamPort)
	}
	err = p.ends[0].host.Do(func() (err error) {
		c, err = dial("tcp", to)
		return err
	})
	return c, err
}

// stream is what tcp is, with a program of our own.
func stream(name, title string, count int, back bool) measure {
	take := func(p *pair, add func(string, float64)) {
		if p.raw != nil {
			return
		}
		from, to := 0, 1
		if back {
			from, to = 1, 0
		}
		before := p.state()
		bytes, rate, err := p.stream(count, back)
		if err != nil {
			p.t.Fatalf("%v: %s: %v", p.variant, title, err)
		}
		c := p.carried(before, p.state(), from, to, bytes)
		add(title+mbits, rate/1e6)
		p.addCost(title, c, bytes, add)
	}
	return measure{name, append([]string{title + mbits}, costs(title)...), take}
}

// stream returns how many bytes arrived, and in the wanted time how many bits per second.
func (p *pair) stream(count int, back bool) (bytes int64, rate float64, err error) {
	what, received := byte(streamReceive), &p.streams.received
	if back {
		what, received = streamSend, new(atomic.Int64)
	}
	var conns []net.Conn
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range count {
		c, derr := p.dialStream()
		if derr != nil {
			return 0, 0, derr
		}
		conns = append(conns, c)
		if _, err := c.Write([]byte{what}); err != nil {
			return 0, 0, err
		}
	}
	first, begin := received.Load(), time.Now()
	for _, c := range conns {
		if back {
			tasks.Go(func() { receiveAll(c, received) })
		} else {
			tasks.Go(func() { sendAll(c) })
		}
	}
	<-time.After(time.Duration(*seconds) * time.Second)
	bytes, took := received.Load()-first, time.Since(begin)
	if bytes == 0 {
		return 0, 0, errors.Join(errors.New("nothing arrived"), fmt.Errorf("within %v", took))
	}
	return bytes, 8 * float64(bytes) / took.Seconds(), nil
}
