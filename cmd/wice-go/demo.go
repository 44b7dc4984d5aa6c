package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/rendezvous"
)

const (
	demoTimeout  = 30 * time.Second
	demoPings    = 5
	demoTransfer = 64 << 20 // bytes
	demoPort     = 5001     // of the server inside the tunnel
)

func newDemoCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Watch two peers on this machine find each other, without root",
		Long: `Start a rendezvous and two peers on this machine, each a process of its own with its own keys and userspace stack. They know of
each other nothing but the public key. Once they have found each other, ping and a transfer go through the tunnel. Nothing remains.`,
		Example: "  wice-go demo",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, demoTimeout)
			defer cancel()
			return a.demo(ctx)
		},
	}
}

// demoPeer is one of the two daemons.
type demoPeer struct {
	name    string
	private key.Private
	address netip.Addr
	forward string // its Forward line
	paths   control.Paths
	env     []string
	log     string
	cmd     *exec.Cmd
	exited  chan struct{} // closed when the process has ended
	exit    error         // how, once it has
	client  *control.Client
}

// demoDir makes a directory whose path leaves room for that of a socket.
func (a *app) demoDir() (string, error) {
	const most = 60 // bytes; a socket's path may have 103, of which the peers take 40
	dir, err := os.MkdirTemp("", "wice-go-demo-")
	if err == nil && len(dir) > most && a.paths.GOOS != "windows" {
		os.Remove(dir)
		dir, err = os.MkdirTemp("/tmp", "wice-go-demo-")
	}
	return dir, err
}

func (a *app) demo(ctx context.Context) (err error) {
	dir, err := a.demoDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer sink.Close()
	entry, err := freePort()
	if err != nil {
		return err
	}
	peers := [2]*demoPeer{
		{name: "alice", private: key.NewPrivate(), address: netip.MustParseAddr("10.99.0.1"), forward: fmt.Sprintf("tcp %s -> 10.99.0.2:%d", entry, demoPort)},
		{name: "bob", private: key.NewPrivate(), address: netip.MustParseAddr("10.99.0.2"), forward: fmt.Sprintf("tcp tunnel:%d -> %s", demoPort, sink.Addr())},
	}

	server, err := rendezvous.Start(ctx, rendezvous.Options{
		Addresses:    []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		StateDir:     filepath.Join(dir, "rendezvous"),
		Relay:        true,
		AllowPrivate: true,
		Logger:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return fmt.Errorf("start the rendezvous: %w", err)
	}
	defer server.Close()
	line := server.Lines()[0]
	a.say("rendezvous  on this machine, prints the line that clients paste:")
	a.say("            %s", line)
	for i, p := range peers {
		if err := p.prepare(a, filepath.Join(dir, p.name), line, peers[1-i]); err != nil {
			return err
		}
		a.say("%-10s  key %s, address %s, no root, no TUN", p.name, p.private.Public(), p.address)
	}

	start := time.Now()
	for _, p := range peers {
		if err := p.start(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.stop()) }()
	}
	status, err := peers[0].connected(ctx)
	if err != nil {
		return errors.Join(err, peers[0].tail(), peers[1].tail())
	}
	peer := status.Peers[0]
	a.say("connected   %v after the start of both", time.Since(start).Round(time.Millisecond))
	a.say("pair        %s %s <-> %s %s over %s (%s)", peer.Path.Local.Type, peer.Path.Local.Address,
		peer.Path.Remote.Type, peer.Path.Remote.Address, peer.Path.Protocol, peer.Path.Kind)
	for range demoPings {
		reply, err := peers[0].client.Ping(ctx, control.PingRequest{Peer: "bob"})
		if err != nil {
			return errors.Join(fmt.Errorf("ping bob: %w", err), peers[0].tail(), peers[1].tail())
		}
		a.say("ping        %s answers in %.2f ms, %s", reply.Address, reply.RoundTripMs, reply.Path.Kind)
	}
	if err := a.demoTransfer(ctx, entry, sink); err != nil {
		return errors.Join(err, peers[0].tail(), peers[1].tail())
	}
	a.say("done        nothing remains; next: README.md, \"Two hosts\"")
	return nil
}

func (a *app) say(format string, args ...any) { fmt.Fprintf(a.stdout, format+"\n", args...) }

// prepare writes the peer's file and gives it places of its own for sockets and logs.
func (p *demoPeer) prepare(a *app, dir, line string, other *demoPeer) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file := fmt.Sprintf(`[Interface]
PrivateKey = %s
Address = %s/24
%s
#!wice Tun = netstack
#!wice Forward = %s

[Peer]
#!wice Name = %s
PublicKey = %s
AllowedIPs = %s/32
`, p.private.Base64(), p.address, line, p.forward, other.name, other.private.Public(), other.address)
	if err := os.WriteFile(filepath.Join(dir, p.name+".conf"), []byte(file), 0o600); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	own := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, envPrefix) })
	p.env = append(own, control.EnvRuntimeDir+"="+dir)
	p.paths = a.paths.WithRuntimeDir(dir)
	p.log = filepath.Join(dir, "log")
	p.cmd = exec.Command(exe, "up", filepath.Join(dir, p.name+".conf"), "--foreground", "--loopback", "--log-level=info")
	return nil
}

func (p *demoPeer) start(ctx context.Context) error {
	log, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = p.env, log, log
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.exited = make(chan struct{})
	go func() {
		p.exit = p.cmd.Wait()
		close(p.exited)
	}()
	return nil
}

// connected waits until the peer's only peer is connected.
func (p *demoPeer) connected(ctx context.Context) (*control.Status, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var status *control.Status
	for {
		if p.client == nil {
			p.client, _ = control.Dial(ctx, p.paths.ControlSocket(p.name))
		}
		if p.client != nil {
			s, err := p.client.Status(ctx)
			if err == nil && len(s.NotConnected()) == 0 && s.Peers[0].Path != nil {
				return s, nil
			}
			if err == nil {
				status = s
			}
		}
		select {
		case <-tick.C:
			continue
		case <-p.exited:
			return nil, fmt.Errorf("%s has ended: %w", p.name, p.exit)
		case <-ctx.Done():
		}
		if status == nil {
			return nil, fmt.Errorf("%s: no answer: %w", p.name, ctx.Err())
		}
		return nil, fmt.Errorf("%s is not connected: %s", p.name, strings.Join(status.NotConnected(), "; "))
	}
}

func (p *demoPeer) stop() error {
	p.cmd.Process.Signal(os.Interrupt)
	kill := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	defer kill.Stop()
	<-p.exited
	if p.exit != nil {
		return fmt.Errorf("%s: %w", p.name, p.exit)
	}
	return nil
}

// tail returns the end of the peer's log, as an error to show beside another.
func (p *demoPeer) tail() error {
	const most = 2000 // bytes
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	return fmt.Errorf("log of %s:\n%s", p.name, b[max(0, len(b)-most):])
}

// demoTransfer sends data into the tunnel at alice's end, and counts it behind bob's.
func (a *app) demoTransfer(ctx context.Context, entry netip.AddrPort, sink net.Listener) error {
	stop := context.AfterFunc(ctx, func() { sink.Close() })
	defer stop()
	type result struct {
		n   int64
		err error
	}
	received := make(chan result, 1)
	go func() {
		c, err := sink.Accept()
		if err != nil {
			received <- result{0, err}
			return
		}
		defer c.Close()
		n, err := io.Copy(io.Discard, c)
		received <- result{n, err}
	}()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", entry.String())
	if err != nil {
		return err
	}
	defer c.Close()
	stopWrite := context.AfterFunc(ctx, func() { c.Close() })
	defer stopWrite()
	start := time.Now()
	if _, err := io.CopyN(c, zeros{}, demoTransfer); err != nil {
		return fmt.Errorf("send into the tunnel: %w", err)
	}
	c.(*net.TCPConn).CloseWrite()
	r := <-received
	took := time.Since(start)
	if r.err != nil || r.n != demoTransfer {
		return fmt.Errorf("of %d bytes sent %d arrived: %w", demoTransfer, r.n, r.err)
	}
	a.say("transfer    %d MiB by TCP through the tunnel in %v: %.0f Mbit/s", demoTransfer>>20, took.Round(time.Millisecond), float64(r.n)*8/took.Seconds()/1e6)
	return nil
}

// zeros is an endless source of zero bytes.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// freePort finds a port on loopback that nobody listens on.
func freePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}
