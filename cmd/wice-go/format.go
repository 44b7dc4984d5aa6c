package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
)

// painter colours text if the terminal takes it. The colours are those of wg.
type painter bool

// newPainter follows WG_COLOR_MODE.
func newPainter(a *app) painter {
	switch a.getenv("WG_COLOR_MODE") {
	case "always":
		return true
	case "never":
		return false
	}
	return painter(a.onTerminal())
}

// onTerminal reports whether a person reads stdout.
func (a *app) onTerminal() bool {
	f, ok := a.stdout.(*os.File)
	return ok && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}

const (
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
	reset  = "\x1b[0m"
)

func (p painter) code(code string) string {
	if p {
		return code
	}
	return ""
}

func (p painter) in(code, s string) string { return p.code(code) + s + p.code(reset) }

// pretty renders the device as wg show does for people.
func (d *uapiDevice) pretty(paint painter, showKeys bool, now time.Time) string {
	var b strings.Builder
	row := func(label, value string) { fmt.Fprintf(&b, "  %s: %s\n", paint.in(bold, label), value) }
	secret := func(s string) string {
		if showKeys {
			return s
		}
		return "(hidden)"
	}
	b.WriteString(paint.code(reset))
	fmt.Fprintf(&b, "%s: %s\n", paint.in(green+bold, "interface"), paint.in(green, d.name))
	if !d.private.IsZero() {
		row("public key", d.private.Public().String())
		row("private key", secret(d.private.Base64()))
	}
	if d.listenPort != 0 {
		row("listening port", strconv.Itoa(int(d.listenPort)))
	}
	if d.fwmark != 0 {
		row("fwmark", fmt.Sprintf("0x%x", d.fwmark))
	}
	peers := slices.Clone(d.peers)
	slices.SortStableFunc(peers, func(p, q *uapiPeer) int { return q.handshake.Compare(p.handshake) }) // the latest first
	for _, p := range peers {
		fmt.Fprintf(&b, "\n%s: %s\n", paint.in(yellow+bold, "peer"), paint.in(yellow, p.public.String()))
		if !p.preshared.IsZero() {
			row("preshared key", secret(p.preshared.Base64()))
		}
		if p.endpoint.IsValid() {
			row("endpoint", p.endpoint.String())
		}
		row("allowed ips", p.allowedIPs(", ", paint.in(cyan, "/")))
		if p.handshake.Unix() != 0 && !p.handshake.IsZero() {
			row("latest handshake", ago(paint, now.Unix()-p.handshake.Unix()))
		}
		if p.rx != 0 || p.tx != 0 {
			row("transfer", bytesText(paint, p.rx)+" received, "+bytesText(paint, p.tx)+" sent")
		}
		if p.keepalive != 0 {
			row("persistent keepalive", "every "+durationText(paint, int64(p.keepalive)))
		}
	}
	return b.String()
}

// field renders one field as wg show does for scripts.
func (d *uapiDevice) field(name string, withName bool) string {
	var b strings.Builder
	line := func(columns ...string) {
		if withName {
			b.WriteString(d.name + "\t")
		}
		b.WriteString(strings.Join(columns, "\t") + "\n")
	}
	each := func(columns func(*uapiPeer) []string) {
		for _, p := range d.peers {
			line(append([]string{p.public.String()}, columns(p)...)...)
		}
	}
	switch name {
	case "public-key":
		line(d.publicText())
	case "private-key":
		line(orNone(d.private.Base64(), !d.private.IsZero()))
	case "listen-port":
		line(strconv.Itoa(int(d.listenPort)))
	case "fwmark":
		line(d.fwmarkText())
	case "peers":
		each(func(*uapiPeer) []string { return nil })
	case "preshared-keys":
		each(func(p *uapiPeer) []string { return []string{orNone(p.preshared.Base64(), !p.preshared.IsZero())} })
	case "endpoints":
		each(func(p *uapiPeer) []string { return []string{orNone(p.endpoint.String(), p.endpoint.IsValid())} })
	case "allowed-ips":
		each(func(p *uapiPeer) []string { return []string{p.allowedIPs(" ", "/")} })
	case "latest-handshakes":
		each(func(p *uapiPeer) []string { return []string{strconv.FormatInt(p.sec, 10)} })
	case "transfer":
		each(func(p *uapiPeer) []string {
			return []string{strconv.FormatUint(p.rx, 10), strconv.FormatUint(p.tx, 10)}
		})
	case "persistent-keepalive":
		each(func(p *uapiPeer) []string { return []string{p.keepaliveText()} })
	case "dump":
		line(orNone(d.private.Base64(), !d.private.IsZero()), d.publicText(), strconv.Itoa(int(d.listenPort)), d.fwmarkText())
		each(func(p *uapiPeer) []string {
			return []string{
				orNone(p.preshared.Base64(), !p.preshared.IsZero()), orNone(p.endpoint.String(), p.endpoint.IsValid()), p.allowedIPs(",", "/"),
				strconv.FormatInt(p.sec, 10), strconv.FormatUint(p.rx, 10), strconv.FormatUint(p.tx, 10), p.keepaliveText(),
			}
		})
	}
	return b.String()
}

func orNone(s string, there bool) string {
	if there {
		return s
	}
	return "(none)"
}

func (d *uapiDevice) publicText() string {
	if d.private.IsZero() {
		return "(none)"
	}
	return d.private.Public().String()
}

func (d *uapiDevice) fwmarkText() string {
	if d.fwmark == 0 {
		return "off"
	}
	return fmt.Sprintf("0x%x", d.fwmark)
}

func (p *uapiPeer) keepaliveText() string {
	if p.keepalive == 0 {
		return "off"
	}
	return strconv.Itoa(int(p.keepalive))
}

func (p *uapiPeer) allowedIPs(separator, slash string) string {
	if len(p.allowed) == 0 {
		return "(none)"
	}
	texts := make([]string, len(p.allowed))
	for n, prefix := range p.allowed {
		texts[n] = addrText(prefix.Addr()) + slash + strconv.Itoa(prefix.Bits())
	}
	return strings.Join(texts, separator)
}

// addrText prints as inet_ntop(3) does, which differs from [netip.Addr.String] for IPv4-compatible addresses: ::192.0.2.1.
func addrText(a netip.Addr) string {
	b := a.As16()
	if a.Is6() && !a.Is4In6() && [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0) {
		return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
	}
	return a.String()
}

// ago says how long ago something was, in whole seconds, as wg does.
func ago(paint painter, seconds int64) string {
	switch {
	case seconds == 0:
		return "Now"
	case seconds < 0:
		return "(" + paint.in(red, "System clock wound backward; connection problems may ensue.") + ")"
	}
	return durationText(paint, seconds) + " ago"
}

func durationText(paint painter, seconds int64) string {
	var parts []string
	for _, unit := range []struct {
		name    string
		seconds int64
	}{{"year", 365 * 24 * 3600}, {"day", 24 * 3600}, {"hour", 3600}, {"minute", 60}, {"second", 1}} {
		n := seconds / unit.seconds
		seconds %= unit.seconds
		if n == 0 {
			continue
		}
		name := unit.name
		if n != 1 {
			name += "s"
		}
		parts = append(parts, strconv.FormatInt(n, 10)+" "+paint.in(cyan, name))
	}
	return strings.Join(parts, ", ")
}

func bytesText(paint painter, n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " " + paint.in(cyan, "B")
	}
	value, unit := float64(n)/1024, "KiB"
	for _, next := range []string{"MiB", "GiB", "TiB"} {
		if n>>10 < 1024 {
			break
		}
		n >>= 10
		value, unit = value/1024, next
	}
	return fmt.Sprintf("%.2f %s", value, paint.in(cyan, unit))
}
