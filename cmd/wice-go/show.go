package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/proto/key"
)

// showFields are what wg(8) can show alone.
const showFields = "public-key private-key listen-port fwmark peers preshared-keys endpoints allowed-ips latest-handshakes transfer persistent-keepalive dump"

func newShowCommand(a *app) *cobra.Command {
	fields := strings.Fields(showFields)
	return &cobra.Command{
		Use:               "show [IFACE|all|interfaces] [FIELD]",
		ValidArgsFunction: a.completeRunning,
		Short:             "Show what wg show does",
		Long: `Show the configuration and the state of interfaces exactly as wg show does, for those without wg, and for daemons without root
that wg can't see. FIELD is one of ` + strings.Join(fields, ", ") + `.

Environment: WG_COLOR_MODE (always, never, auto), WG_HIDE_KEYS (never shows keys).`,
		Example: "  wice-go show\n  wice-go show wg0\n  wice-go show wg0 latest-handshakes\n  wice-go show all dump",
		Args:    usageArgs(cobra.MaximumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			which, field := "all", ""
			if len(args) > 0 {
				which = args[0]
			}
			if len(args) > 1 {
				field = args[1]
			}
			if field != "" && (!slices.Contains(fields, field) || which == "interfaces") {
				return usageError(fmt.Errorf("show: invalid field %q: want one of %s", field, strings.Join(fields, ", ")))
			}
			switch which {
			case "all":
				return a.showAll(cmd.Context(), field)
			case "interfaces":
				return a.showInterfaces()
			}
			return a.showOne(cmd.Context(), which, field)
		},
	}
}

func (a *app) showOne(ctx context.Context, iface, field string) error {
	name, _, err := control.InterfaceName(iface)
	if err != nil {
		return usageError(fmt.Errorf("show: %w", err))
	}
	d, err := getDevice(ctx, name, a.paths.FindUAPI(name))
	if errors.Is(err, control.ErrNotRunning) {
		err = fmt.Errorf("%w: start one with \"wice-go up %s\"", err, name)
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", name, err)
	}
	return a.print(a.showDevice(d, field, false))
}

// showAll continues past interfaces that do not answer, and fails if none does though there are some, as wg does.
func (a *app) showAll(ctx context.Context, field string) error {
	sockets, err := a.paths.UAPISockets()
	if err != nil {
		return fmt.Errorf("show: %w", err)
	}
	var errs []error
	var devices []*uapiDevice
	for _, s := range sockets {
		d, err := getDevice(ctx, s.Interface, s.Path)
		switch {
		case errors.Is(err, control.ErrNotRunning): // what a crash left behind
		case err != nil:
			errs = append(errs, fmt.Errorf("show %s: %w", s.Interface, err))
		default:
			devices = append(devices, d)
		}
	}
	if len(devices) == 0 {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		a.warn("%v", err)
	}
	var texts []string
	for _, d := range devices {
		texts = append(texts, a.showDevice(d, field, true))
	}
	separator := "\n"
	if field != "" {
		separator = ""
	}
	return a.print(strings.Join(texts, separator))
}

func (a *app) showInterfaces() error {
	sockets, err := a.paths.UAPISockets()
	if err != nil {
		return fmt.Errorf("show interfaces: %w", err)
	}
	var names []string
	for _, s := range sockets {
		conn, err := control.DialSocket(context.Background(), s.Path)
		if errors.Is(err, control.ErrNotRunning) {
			continue
		}
		if err == nil {
			conn.Close()
		}
		names = append(names, s.Interface)
	}
	if len(names) == 0 {
		return nil
	}
	return a.print(strings.Join(names, " ") + "\n") // on one line, whatever wg(8) says
}

// showDevice renders all of a device, or one field of it.
func (a *app) showDevice(d *uapiDevice, field string, withName bool) string {
	if field != "" {
		return d.field(field, withName)
	}
	return d.pretty(newPainter(a), a.getenv("WG_HIDE_KEYS") == "never", time.Now())
}

func (a *app) print(s string) error {
	_, err := io.WriteString(a.stdout, s)
	return err
}

// uapiDevice is the answer to "get=1" of WireGuard's cross-platform interface.
type uapiDevice struct {
	name       string
	private    key.Private // zero: none
	listenPort uint16
	fwmark     uint32
	peers      []*uapiPeer // in the order of the answer
}

type uapiPeer struct {
	public     key.Public
	preshared  key.Preshared // zero: none
	endpoint   netip.AddrPort
	allowed    []netip.Prefix
	handshake  time.Time // zero: never
	rx, tx     uint64
	keepalive  uint16
	sec, nanos int64
}

const (
	uapiTimeout = 10 * time.Second
	maxUAPI     = 256 << 20 // bytes: the most peers of a device with hundreds of allowed IPs each
)

// getDevice asks the daemon behind a UAPI socket for all there is.
func getDevice(ctx context.Context, name, path string) (*uapiDevice, error) {
	conn, err := control.DialSocket(ctx, path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(uapiTimeout)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "get=1\n\n"); err != nil {
		return nil, fmt.Errorf("ask the UAPI socket: %w", err)
	}
	d, err := parseUAPI(io.LimitReader(conn, maxUAPI))
	if err != nil {
		return nil, fmt.Errorf("read from the UAPI socket: %w", err)
	}
	d.name = name
	return d, nil
}

// parseUAPI reads the answer to "get=1" up to its empty line. Unknown keys are ignored, as wg does.
func parseUAPI(r io.Reader) (*uapiDevice, error) {
	d := new(uapiDevice)
	lines := bufio.NewScanner(r)
	errno := ""
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			if errno != "0" {
				return nil, fmt.Errorf("the daemon reports errno %q", errno)
			}
			for _, p := range d.peers {
				if p.sec != 0 || p.nanos != 0 {
					p.handshake = time.Unix(p.sec, p.nanos)
				}
			}
			return d, nil
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, errors.New("a line is not of the form key=value")
		}
		if name == "errno" {
			errno = value
			continue
		}
		if err := d.set(name, value); err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return nil, io.ErrUnexpectedEOF
}

// set takes one line of the answer.
func (d *uapiDevice) set(name, value string) (err error) {
	if name == "public_key" {
		p := new(uapiPeer)
		p.public, err = key.ParsePublicHex(value)
		d.peers = append(d.peers, p)
		return err
	}
	if len(d.peers) == 0 {
		switch name {
		case "private_key":
			err = decodeHex(d.private[:], value)
		case "listen_port":
			d.listenPort, err = parseUint[uint16](value)
		case "fwmark":
			d.fwmark, err = parseUint[uint32](value)
		}
		return err
	}
	p := d.peers[len(d.peers)-1]
	switch name {
	case "preshared_key":
		err = decodeHex(p.preshared[:], value)
	case "endpoint":
		p.endpoint, err = netip.ParseAddrPort(value)
	case "persistent_keepalive_interval":
		p.keepalive, err = parseUint[uint16](value)
	case "allowed_ip":
		var prefix netip.Prefix
		prefix, err = netip.ParsePrefix(value)
		p.allowed = append(p.allowed, prefix)
	case "last_handshake_time_sec":
		p.sec, err = parseUint[int64](value)
	case "last_handshake_time_nsec":
		p.nanos, err = parseUint[int64](value)
	case "rx_bytes":
		p.rx, err = parseUint[uint64](value)
	case "tx_bytes":
		p.tx, err = parseUint[uint64](value)
	}
	return err
}

// decodeHex reads a key. Its errors do not contain the text.
func decodeHex(k []byte, s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(k) {
		return errors.New("not the hexadecimal form of a key")
	}
	copy(k, b)
	return nil
}

func parseUint[T uint16 | uint32 | uint64 | int64](s string) (T, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, err
	}
	v := T(n)
	if v < 0 || uint64(v) != n {
		return 0, strconv.ErrRange
	}
	return v, nil
}
