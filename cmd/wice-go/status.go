package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/device/control"
)

type statusFlags struct {
	json, watch, check bool
	interval           time.Duration
}

func newStatusCommand(a *app) *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:               "status [IFACE]",
		ValidArgsFunction: a.completeRunning,
		Short:             "Show how each peer is reached, and why not directly",
		Long: `Show one line a peer: its name or the beginning of its key, overlay address, state, path, round trip, transfer and last
handshake, and why it is not connected or not direct. Without IFACE all interfaces that are up are shown.

The states: connected, connecting, idle (nothing asked for a session), failed (tried again later), plain (an ordinary WireGuard peer).`,
		Example: "  wice-go status\n  wice-go status wg0 --json\n  wice-go status wg0 --watch\n  wice-go status wg0 --check && echo all peers are connected",
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return a.status(ctx, strings.Join(args, ""), f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.json, "json", false, "print JSON, one object a line and interface")
	flags.BoolVarP(&f.watch, "watch", "w", false, "keep showing the status until interrupted")
	flags.BoolVar(&f.check, "check", false, "exit with 0 if every peer is connected, else with 4")
	flags.DurationVar(&f.interval, "interval", 2*time.Second, "time between two updates of --watch")
	return cmd
}

func (a *app) status(ctx context.Context, arg string, f statusFlags) error {
	name := ""
	if arg != "" {
		var err error
		if name, _, err = control.InterfaceName(arg); err != nil {
			return usageError(fmt.Errorf("status: %w", err))
		}
	}
	if f.watch && f.check {
		return usageError(errors.New("status: --check looks once: leave out --watch, or use \"wice-go up --wait\" to wait"))
	}
	if f.interval <= 0 {
		return usageError(fmt.Errorf("status: --interval %v: want more than 0", f.interval))
	}
	if f.watch {
		return a.watchStatus(ctx, name, f)
	}
	list, err := a.statuses(ctx, name)
	if err != nil {
		return err
	}
	if err := a.printStatuses(list, f); err != nil || !f.check {
		return err
	}
	var missing []string
	for _, s := range list {
		missing = append(missing, s.NotConnected()...)
	}
	if len(missing) > 0 {
		return &exitError{exitNotReady, fmt.Errorf("not connected: %s", strings.Join(missing, "; "))}
	}
	return nil
}

// statuses asks the daemon of the interface, or all that answer.
func (a *app) statuses(ctx context.Context, name string) ([]*control.Status, error) {
	if name != "" {
		s, err := askStatus(ctx, a.paths.FindControl(name))
		if errors.Is(err, control.ErrNotRunning) {
			err = fmt.Errorf("%w: %s", err, a.statusHint(ctx, name))
		}
		if err != nil {
			return nil, fmt.Errorf("status of %s: %w", name, err)
		}
		return []*control.Status{s}, nil
	}
	sockets, err := a.paths.ControlSockets()
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	var list []*control.Status
	var errs []error
	for _, socket := range sockets {
		s, err := askStatus(ctx, socket.Path)
		switch {
		case errors.Is(err, control.ErrNotRunning): // what a crash left behind
		case err != nil:
			errs = append(errs, fmt.Errorf("status of %s: %w", socket.Interface, err))
		default:
			list = append(list, s)
		}
	}
	switch {
	case len(list) > 0:
		for _, err := range errs {
			a.warn("%v", err)
		}
		return list, nil
	case len(errs) > 0:
		return nil, errors.Join(errs...)
	}
	return nil, fmt.Errorf("status: %w: start one with \"wice-go up IFACE\"", control.ErrNotRunning)
}

// statusHint says what to do where no daemon answers: perhaps another implementation of WireGuard has the interface.
func (a *app) statusHint(ctx context.Context, name string) string {
	if conn, err := control.DialSocket(ctx, a.paths.FindUAPI(name)); err == nil {
		conn.Close()
		return fmt.Sprintf("another WireGuard serves this interface: see \"wice-go show %s\"", name)
	}
	return fmt.Sprintf("start one with \"wice-go up %s\"", name)
}

func askStatus(ctx context.Context, path string) (*control.Status, error) {
	client, err := control.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return client.Status(ctx)
}

// watchStatus redraws on a terminal and appends elsewhere. It ends without error when interrupted.
func (a *app) watchStatus(ctx context.Context, name string, f statusFlags) error {
	tick := time.NewTicker(f.interval)
	defer tick.Stop()
	redraw := a.onTerminal() && !f.json
	for first := true; ; first = false {
		list, err := a.statuses(ctx, name)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case redraw:
			err = a.print("\x1b[H\x1b[2J") // home, and clear the screen
		case !first && !f.json:
			err = a.print("\n")
		}
		if err != nil {
			return err
		}
		if err := a.printStatuses(list, f); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *app) printStatuses(list []*control.Status, f statusFlags) error {
	if f.json {
		enc := json.NewEncoder(a.stdout)
		enc.SetEscapeHTML(false)
		for _, s := range list {
			if err := enc.Encode(s); err != nil {
				return err
			}
		}
		return nil
	}
	terminal, now := a.onTerminal(), time.Now()
	for _, s := range list {
		// Scripts get the lines of the peers alone, and people what is around them.
		if terminal || len(list) > 1 {
			if err := a.print(statusTitle(s)); err != nil {
				return err
			}
		}
		for _, b := range s.Signaling {
			if !b.Connected {
				fmt.Fprintf(a.stderr, "%s: signaling over %s is not connected: %s\n", s.Interface, b.Backend, b.Detail)
			}
		}
		if len(s.Peers) == 0 {
			fmt.Fprintf(a.stderr, "%s has no peers\n", s.Interface)
		}
		if err := a.print(statusTable(s, now, terminal)); err != nil {
			return err
		}
	}
	return nil
}

// statusTitle is the line above an interface's peers.
func statusTitle(s *control.Status) string {
	var backends []string
	for _, b := range s.Signaling {
		if b.Connected {
			backends = append(backends, b.Backend)
		}
	}
	if len(backends) == 0 {
		backends = append(backends, "not connected")
	}
	return fmt.Sprintf("%s: %s, port %d, %s, signaling: %s\n", s.Interface, cmp.Or(s.PublicKey, "no private key"), s.ListenPort, s.Tun, strings.Join(backends, ", "))
}

// statusTable renders one line a peer in columns, with a heading for people.
func statusTable(s *control.Status, now time.Time, heading bool) string {
	var rows [][]string
	if heading && len(s.Peers) > 0 {
		rows = append(rows, []string{"PEER", "ADDRESS", "STATE", "PATH", "ROUND TRIP", "TRANSFER", "HANDSHAKE", "WHY"})
	}
	for n := range s.Peers {
		p := &s.Peers[n]
		rows = append(rows, []string{
			p.DisplayName(), overlayAddress(p), string(p.State), pathText(p.Path), roundTripText(p.RoundTripMs),
			"rx " + bytesText(false, p.RxBytes) + ", tx " + bytesText(false, p.TxBytes), handshakeText(p.LastHandshake, now), oneLine(whyText(p)),
		})
	}
	return columns(rows)
}

// columns pads all but the last column to one width each, with two spaces between.
func columns(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for n, cell := range row {
			if n == len(widths) {
				widths = append(widths, 0)
			}
			widths[n] = max(widths[n], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for n, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", widths[n]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// overlayAddress is the peer's own address inside the tunnel: the first allowed IP that is a single address, else the first one.
func overlayAddress(p *control.PeerStatus) string {
	for _, prefix := range p.AllowedIPs {
		if prefix.IsSingleIP() {
			return prefix.Addr().String()
		}
	}
	if len(p.AllowedIPs) > 0 {
		return p.AllowedIPs[0].String()
	}
	return "-"
}

// pathText says how packets reach the peer, and where to.
func pathText(p *control.PathStatus) string {
	if p == nil {
		return "-"
	}
	s := string(p.Kind)
	end := p.Remote.Address
	if p.Kind == control.PathRelay && p.Local.Type == "relay" {
		end = p.Local.Address // the relay that we see, not where it sends to
	}
	if end.IsValid() {
		s += " " + end.String()
	}
	if p.Protocol != "" && p.Protocol != "udp" {
		s += " over " + p.Protocol
	}
	return s
}

func roundTripText(ms float64) string {
	switch {
	case ms <= 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// handshakeText says how long ago the last handshake was, in the two largest units.
func handshakeText(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	text := ago(false, now.Unix()-t.Unix())
	body, old := strings.CutSuffix(text, " ago")
	if parts := strings.Split(body, ", "); old && len(parts) > 2 {
		return strings.Join(parts[:2], ", ") + " ago"
	}
	return text
}

// whyText says why the peer is not reached as well as could be.
func whyText(p *control.PeerStatus) string {
	if p.Path == nil || p.Path.PathMTU == 0 {
		return p.Reason
	}
	clamped := fmt.Sprintf("path MTU %d: packets over %d B clamped", p.Path.PathMTU, p.Path.MTU)
	if p.Reason == "" {
		return clamped
	}
	return p.Reason + "; " + clamped
}

// oneLine keeps a reason from breaking the table.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
