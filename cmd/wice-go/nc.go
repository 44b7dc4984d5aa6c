package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
)

const (
	// maxDatagram is how much of the standard input becomes one datagram, in bytes, where more comes at once: what nc(1) takes.
	maxDatagram = 16 << 10

	// downPatience is how long a connection by the kernel to a peer that is not connected may take.
	downPatience = 3 * time.Second
)

type ncFlags struct {
	udp  bool
	wait time.Duration
}

func newNCCommand(a *app) *cobra.Command {
	var f ncFlags
	cmd := &cobra.Command{
		Use:               "nc IFACE HOST PORT",
		ValidArgsFunction: a.completeRunning,
		Short:             "Connect the standard input and output through the tunnel",
		Long: `Connect through the tunnel of a running daemon, also of one without a kernel TUN, and copy the standard input there and what comes back to
the standard output. HOST is a peer's name, an address inside the tunnel, or a name that the DNS servers of the tunnel know. The end of the
input is passed on; the command ends when both directions have ended. With --udp each read of the input is one datagram.`,
		Example: `  wice-go nc wg0 bob 22
  ssh -o ProxyCommand='wice-go nc wg0 %h %p' bob`,
		Args: exactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return a.nc(ctx, args[0], args[1], args[2], f)
		},
	}
	cmd.Flags().BoolVarP(&f.udp, "udp", "u", false, "send datagrams by UDP")
	cmd.Flags().DurationVarP(&f.wait, "wait", "w", 3*time.Second, "with --udp, how long after the end of the input to wait for another datagram")
	return cmd
}

func (a *app) nc(ctx context.Context, iface, host, port string, f ncFlags) error {
	name, _, err := control.InterfaceName(iface)
	if err != nil {
		return usageError(err)
	}
	if _, err := netip.ParseAddrPort("0.0.0.0:" + port); err != nil {
		return usageError(fmt.Errorf("port %q: want a number up to 65535", port))
	}
	client, err := a.dial(ctx, name)
	if err != nil {
		return err
	}
	defer client.Close()
	s, err := client.Status(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	network := "tcp"
	if f.udp {
		network = "udp"
	}
	var conn control.Conn
	if s.Tun == config.TunNetstack.String() {
		conn, err = client.DialTunnel(ctx, control.DialRequest{Network: network, Address: net.JoinHostPort(host, port)})
	} else {
		conn, err = dialKernel(ctx, s, network, host, port)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err = a.join(conn, f); ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	return err
}

// join copies both ways until both directions have ended.
func (a *app) join(conn control.Conn, f ncFlags) error {
	size := 32 << 10
	if f.udp {
		size = maxDatagram
	}
	sent := make(chan error, 1)
	go func() {
		// A program that waits for input can't be woken: it ends with the command.
		_, err := io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{a.stdin}, make([]byte, size))
		switch {
		case err == nil && f.udp:
			err = conn.SetReadDeadline(time.Now().Add(f.wait))
		case err == nil:
			err = conn.CloseWrite()
		}
		if err != nil {
			conn.Close() // ends the other direction
		}
		sent <- err
	}()
	received := a.receive(conn, f, sent)
	if received != nil {
		select {
		case err := <-sent: // the cause
			if err != nil {
				received = err
			}
		default:
		}
		return received
	}
	if c, ok := a.stdout.(io.Closer); ok {
		c.Close()
	}
	return <-sent
}

// receive copies to the standard output what comes back. With UDP it ends some time after the input, and the last datagram, have.
func (a *app) receive(conn control.Conn, f ncFlags, sent chan error) error {
	buf := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := a.stdout.Write(buf[:n]); err != nil {
				return err
			}
		}
		var late net.Error
		switch {
		case errors.Is(err, io.EOF), f.udp && errors.As(err, &late) && late.Timeout():
			return nil
		case err != nil:
			return err
		case f.udp && len(sent) > 0: // the input has ended
			conn.SetReadDeadline(time.Now().Add(f.wait))
		}
	}
}

// dialKernel connects by the kernel's stack, which has the tunnel.
func dialKernel(ctx context.Context, s *control.Status, network, host, port string) (control.Conn, error) {
	addresses, err := resolveInTunnel(ctx, s, host)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, a := range addresses {
		p := s.RouteTo(a)
		if p == nil {
			failed = append(failed, fmt.Errorf("%s: not in the tunnel: no peer has the address in its AllowedIPs", a))
			continue
		}
		patience := control.DialTimeout
		if p.State == control.StateConnecting || p.State == control.StateFailed {
			patience = downPatience
		}
		conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		switch c := conn.(type) {
		case *net.TCPConn:
			return c, nil
		case *net.UDPConn:
			return udpConn{c}, nil
		}
		if why := (&control.Status{Peers: []control.PeerStatus{*p}}).NotConnected(); len(why) > 0 {
			err = fmt.Errorf("%w (%s)", err, why[0])
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}

// udpConn has no direction that could end.
type udpConn struct{ *net.UDPConn }

func (udpConn) CloseWrite() error { return nil }

// resolveInTunnel finds the addresses of a host: an address, a peer's name or another one.
func resolveInTunnel(ctx context.Context, s *control.Status, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	var addresses []netip.Addr
	for _, p := range s.Peers {
		if !strings.EqualFold(p.Name, strings.TrimSuffix(host, ".")) {
			continue
		}
		for _, prefix := range p.AllowedIPs {
			if prefix.IsSingleIP() {
				addresses = append(addresses, prefix.Addr())
			}
		}
		break
	}
	if len(addresses) > 0 {
		return addresses, nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found, err
}

// tunnel is the userspace stack for [control.Server].
func (r *running) tunnel() control.Tunnel {
	if r.stack == nil {
		return nil
	}
	return r.stack
}
