package device

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/ipc"

	"github.com/wice-go/wice-go/bind"
)

const (
	// maxSetSize bounds one set operation of the UAPI: as many peers as WireGuard has at most, 65,536, with a dozen allowed IPs each.
	maxSetSize = 32 << 20
	// maxSetBytes bounds those of all connections that are being written.
	maxSetBytes = 2 * maxSetSize
)

// HandleUAPI serves one connection of WireGuard's configuration protocol (wireguard.com/xplatform) until it ends. wireguard-go applies
// the operations; in between stands what ICE needs: a peer gets its session the moment it is set, and "endpoint=" is left out while a
// peer has none, since wg(8) takes no empty one.
func (d *Device) HandleUAPI(c net.Conn) {
	defer c.Close()
	in, out := bufio.NewReader(c), bufio.NewWriter(c)
	for {
		op, err := in.ReadSlice('\n') // an operation has one short line
		if err != nil {
			return
		}
		switch string(op) {
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
			var text []byte
			if text, err = d.ipcGet(); err == nil {
				_, err = out.Write(text)
			}
		default:
			d.log.Warn("UAPI: unknown operation, connection closed", "operation", strings.TrimSpace(string(op)))
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

// ServeUAPI accepts connections until the listener or the device is closed. Then it ends those that are open, and returns. Of too many open
// ones, those end that were silent for the longest time, so that a new one always has its answer.
func (d *Device) ServeUAPI(l net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	var open connQueue
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
			q := open.add(c)
			defer open.remove(q)
			d.HandleUAPI(q)
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
	errTooLong = &uapiError{ipc.IpcErrorIO, fmt.Errorf("set operation of more than %d bytes, or several of more than %d", maxSetSize, maxSetBytes)}
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

// serveSet reads one set operation to its blank line, or to the end of input, and applies it. It is read whole before, so that one that is
// half written neither holds up the others nor is applied by half.
func (d *Device) serveSet(in *bufio.Reader) error {
	var text bytes.Buffer
	defer func() { d.uapiBytes.Add(-int64(text.Len())) }()
	for atStart := true; ; {
		part, err := in.ReadSlice('\n')
		if total := d.uapiBytes.Add(int64(len(part))); total > maxSetBytes || text.Len()+len(part) > maxSetSize {
			d.uapiBytes.Add(-int64(len(part)))
			return errTooLong
		}
		text.Write(part)
		blank := atStart && (string(part) == "\n" || string(part) == "\r\n")
		atStart = err == nil
		switch {
		case blank, err == io.EOF:
			return d.ipcSet(text.Bytes())
		case err != nil && err != bufio.ErrBufferFull:
			return &uapiError{ipc.IpcErrorIO, err}
		}
	}
}

// UAPIState returns what a "get" operation answers, without the error number.
func (d *Device) UAPIState() (string, error) {
	text, err := d.ipcGet()
	return string(text), err
}

// noEndpoint is the line of a peer whose endpoint has no address yet, with the end of the line before.
const noEndpoint = "\nendpoint=" + bind.NoEndpoint + "\n"

// ipcGet returns wireguard-go's state without the endpoints that have no address yet. wireguard-go is locked while it writes, hence the memory:
// a client that does not read its answer holds up nobody else.
func (d *Device) ipcGet() ([]byte, error) {
	var buf bytes.Buffer
	if err := d.wg.IpcGetOperation(&buf); err != nil {
		return nil, err
	}
	rest := buf.Bytes()
	text := rest[:0]
	for {
		before, after, found := bytes.Cut(rest, []byte(noEndpoint))
		text = append(text, before...)
		if !found {
			return text, nil
		}
		text, rest = append(text, '\n'), after
	}
}
