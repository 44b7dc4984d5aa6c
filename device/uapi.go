package device

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/ipc"

	"github.com/wice-go/wice-go/proto/key"
)

// maxSetSize bounds one set operation of the UAPI: about 100,000 peers with some allowed IPs each.
const maxSetSize = 64 << 20

// HandleUAPI serves one connection of WireGuard's configuration protocol (wireguard.com/xplatform) until it ends. wireguard-go applies
// the operations; in between stands what ICE needs: a peer gets its session the moment it is set, and "endpoint=" is left out while a
// peer has none, since wg(8) takes no empty one.
func (d *Device) HandleUAPI(c net.Conn) {
	defer c.Close()
	in, out := bufio.NewReader(c), bufio.NewWriter(c)
	for {
		op, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch op {
		case "set=1\n":
			err = d.serveSet(in)
		case "get=1\n":
			var blank byte
			if blank, err = in.ReadByte(); err != nil {
				return
			}
			if blank != '\n' {
				err = errInvalid
				break
			}
			err = d.ipcGet(out)
		default:
			d.log.Warn("UAPI: unknown operation, connection closed", "operation", strings.TrimSpace(op))
			return
		}
		fmt.Fprintf(out, "errno=%d\n\n", errno(err))
		if out.Flush() != nil {
			return
		}
	}
}

// acceptPause is the time between two attempts to accept a connection where that fails, as without file descriptors.
const acceptPause = 100 * time.Millisecond

// ServeUAPI accepts connections until the listener or the device is closed. Then it ends those that are open, and returns.
func (d *Device) ServeUAPI(l net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(d.ctx)
	defer cancel()
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed):
			return
		default:
			d.log.Warn("UAPI: accept failed, trying again", "err", err)
			select {
			case <-time.After(acceptPause):
				continue
			case <-ctx.Done():
				return
			}
		}
		conns.Go(func() {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			d.HandleUAPI(c)
		})
	}
}

// uapiError is an error with the number that the UAPI answers.
type uapiError struct {
	code int64
	err  error
}

func (e *uapiError) Error() string    { return e.err.Error() }
func (e *uapiError) Unwrap() error    { return e.err }
func (e *uapiError) ErrorCode() int64 { return e.code }

var (
	errInvalid = &uapiError{ipc.IpcErrorInvalid, errors.New("trailing character in UAPI get")}
	errClosed  = &uapiError{ipc.IpcErrorIO, errors.New("the interface is down")}
	errTooLong = &uapiError{ipc.IpcErrorIO, fmt.Errorf("set operation of more than %d bytes", maxSetSize)}
)

func errno(err error) int64 {
	var coded interface{ ErrorCode() int64 }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.ErrorCode()
	}
	return ipc.IpcErrorUnknown
}

// serveSet reads one set operation to its blank line, or to the end of input, and applies it.
func (d *Device) serveSet(in *bufio.Reader) error {
	var text strings.Builder
	for {
		line, err := in.ReadString('\n')
		if line == "\n" {
			break
		}
		if text.Len()+len(line) > maxSetSize {
			return errTooLong
		}
		text.WriteString(line)
		if err == io.EOF {
			break
		}
		if err != nil {
			return &uapiError{ipc.IpcErrorIO, err}
		}
	}
	return d.ipcSet(text.String())
}

// ipcSet applies a set operation and makes sessions and endpoints follow. Keep-alives are switched on last: they make wireguard-go send a
// handshake at once, which must find the endpoint of its peer in place.
func (d *Device) ipcSet(text string) error {
	d.uapiMu.Lock()
	defer d.uapiMu.Unlock()
	if d.ctx.Err() != nil {
		return errClosed
	}
	return d.applySet(splitSet(text, d.hasPort))
}

// applySet is ipcSet for one that holds uapiMu.
func (d *Device) applySet(set setOperation) error {
	if err := d.wg.IpcSet(set.first); err != nil {
		return errors.Join(err, d.reconcile(set))
	}
	if err := d.reconcile(set); err != nil {
		return err
	}
	if set.keepalives == "" {
		return nil
	}
	return d.wg.IpcSet(set.keepalives)
}

// setOperation is a set operation taken apart.
type setOperation struct {
	first      string // all but the keep-alives
	keepalives string // the keep-alives, as an operation of their own that creates no peer

	// endpoints are those that it sets; the zero value is that of a peer that it removes, and may add again.
	endpoints     map[key.Public]netip.AddrPort
	replacesPeers bool // all peers are removed first
}

// splitSet takes a set operation apart. What wireguard-go makes of the two parts, one after the other, is what it makes of the whole, if it
// accepts that. A keep-alive stays in its place where it is wrong, so that wireguard-go says so, and where the peer occurs more than once,
// since it may be removed and made anew in between. A port that hasPort says is there already is left out.
func splitSet(text string, hasPort func(value string) bool) setOperation {
	op := setOperation{endpoints: make(map[key.Public]netip.AddrPort)}
	sections := make(map[string]int)
	for name, value := range setLines(text) {
		if name == "public_key" {
			sections[strings.ToLower(value)]++
		}
	}
	var first, keepalives strings.Builder
	var section string
	var pk key.Public
	known := false // pk is the key of the section
	moves := false // from the port that is open
	for name, value := range setLines(text) {
		switch name {
		case "public_key":
			section = value
			var err error
			pk, err = key.ParsePublicHex(value) // wireguard-go reports what is wrong with it
			known = err == nil
		case "listen_port":
			if section == "" && !moves && hasPort(value) { // in a section it is wrong
				continue
			}
			moves = true
		case "remove":
			op.endpoints[pk] = netip.AddrPort{}
		case "replace_peers":
			op.replacesPeers = true
		case "endpoint":
			if addr, err := netip.ParseAddrPort(value); err == nil && known {
				op.endpoints[pk] = addr
			}
		case "persistent_keepalive_interval":
			if _, err := strconv.ParseUint(value, 10, 16); err == nil && sections[strings.ToLower(section)] == 1 {
				fmt.Fprintf(&keepalives, "public_key=%s\nupdate_only=true\n%s=%s\n", section, name, value)
				continue
			}
		}
		first.WriteString(name)
		if value != noValue {
			first.WriteString("=" + value)
		}
		first.WriteByte('\n')
	}
	op.first, op.keepalives = first.String(), keepalives.String()
	return op
}

// noValue stands for the value of a line without an equals sign; no line can have it.
const noValue = "\n"

// setLines yields the lines of a set operation up to the blank one, which ends it, taken apart as wireguard-go does.
func setLines(text string) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
			if line == "" {
				return
			}
			name, value, found := strings.Cut(line, "=")
			if !found {
				value = noValue
			}
			if !yield(name, value) {
				return
			}
		}
	}
}

// UAPIState returns what a "get" operation answers, without the error number.
func (d *Device) UAPIState() (string, error) {
	var text strings.Builder
	err := d.ipcGet(&text)
	return text.String(), err
}

// noEndpoint is the line of a peer whose endpoint has no address yet (see [bind.PeerEndpoint.DstToString]).
const noEndpoint = "endpoint=0.0.0.0:0\n"

// ipcGet writes wireguard-go's state without the endpoints that have no address yet.
func (d *Device) ipcGet(w io.Writer) error {
	var buf bytes.Buffer
	if err := d.wg.IpcGetOperation(&buf); err != nil {
		return err
	}
	for {
		line, err := buf.ReadBytes('\n')
		if len(line) > 0 && string(line) != noEndpoint {
			if _, err := w.Write(line); err != nil {
				return &uapiError{ipc.IpcErrorIO, err}
			}
		}
		if err != nil {
			return nil
		}
	}
}
