package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/wice-go/wice-go/test/natlab"
)

// dnsName is what the DNS server behind the tunnel knows.
const dnsName = "www.inside.test"

// An ordinary user behind a NAT reaches the peer through SOCKS5 and HTTP: by address, by the peer's name and by one of the tunnel's DNS
// server, with TCP and UDP. What can't be reached is answered at once with the reason.
func TestProxies(t *testing.T) {
	needTool(t, "setpriv")
	needTool(t, "curl")
	_, na, nb := newPair(t, natlab.PortRestricted)
	const secret = "s3cr3t-of-alice"
	na.lines = []string{
		fmt.Sprintf("DNS = %s", nb.addr),
		"#!wice SOCKS5 = 127.0.0.1:1080",
		fmt.Sprintf("#!wice HTTPProxy = alice:%s@127.0.0.1:8080", secret),
		"#!wice Forward = tcp tunnel:22 -> 127.0.0.1:22",
	}
	before := na.snapshot()
	nb.up()
	page := strings.Repeat("a page behind the tunnel\n", 100_000)
	serveHTTP(nb, netip.AddrPortFrom(nb.addr, 80), page)
	serveDNS(nb, netip.AddrPortFrom(nb.addr, 53))

	file := nobodyFile(na, na.config(), 0o600, 65534)
	expect(t, asNobody(na, "up", file, "--wait"), 0, "no kernel TUN here")

	curl := func(args ...string) result {
		t.Helper()
		return na.run("curl", append([]string{"--silent", "--show-error", "--max-time", "20"}, args...)...)
	}
	socks := []string{"--socks5-hostname", "127.0.0.1:1080"}
	plain := []string{"-x", "http://127.0.0.1:8080", "-U", "alice:" + secret}
	for _, way := range [][]string{socks, plain, append(plain[:len(plain):len(plain)], "--proxytunnel")} {
		for _, host := range []string{nb.addr.String(), nb.name, dnsName} {
			if r := curl(append(way, "http://"+host+"/")...); r.code != 0 || r.stdout != page {
				t.Errorf("%v %s: got %d bytes, want %d: exit code %d, %s", way[:2], host, len(r.stdout), len(page), r.code, r.stderr)
			}
		}
	}
	for _, c := range []struct {
		url, reply, status, why string
	}{
		{"http://10.98.0.1/", "(3)", "403", "no peer has the address in its AllowedIPs"},
		{fmt.Sprintf("http://%s:81/", nb.addr), "(5)", "502", "connection refused"},
		{"http://absent.inside.test/", "(4)", "502", "no such host"},
	} {
		if r := curl(append(socks, c.url)...); r.code != 97 || !strings.Contains(r.stderr, c.reply) || r.took > 10*time.Second {
			t.Errorf("want SOCKS reply %s at once: %v", c.reply, r)
		}
		if r := curl(append(plain, "-w", "%{http_code}", c.url)...); !strings.Contains(r.stdout, c.why) || !strings.HasSuffix(r.stdout, c.status) || r.took > 10*time.Second {
			t.Errorf("want status %s and %q at once: %v", c.status, c.why, r)
		}
	}
	if r := curl("-x", "http://127.0.0.1:8080", "-o", "/dev/null", "-w", "%{http_code}", "http://"+nb.name+"/"); r.stdout != "407" {
		t.Errorf("without a password: want status 407: %v", r)
	}
	for _, server := range []string{nb.addr.String(), nb.name} {
		na.w.until(patience, "an answer by UDP from "+server, func() (bool, string) {
			got, err := askDNS(na, "127.0.0.1:1080", server)
			return err == nil && got == nb.addr, fmt.Sprint(got, err)
		})
	}
	// Standard input and output, from a userspace stack to a kernel's and back.
	serveBanner(nb, netip.AddrPortFrom(nb.addr, 22), "ssh of "+nb.name)
	serveBanner(na, netip.MustParseAddrPort("127.0.0.1:22"), "ssh of "+na.name)
	if r := asNobody(na, "nc", iface, nb.name, "22"); r.code != 0 || r.stdout != "ssh of "+nb.name {
		t.Errorf("nc from the userspace stack: %v", r)
	}
	if r := nb.run(wiceGo(), "nc", iface, na.name, "22"); r.code != 0 || r.stdout != "ssh of "+na.name {
		t.Errorf("nc from the kernel's stack: %v", r)
	}
	for _, c := range []struct{ host, port, why string }{
		{na.name, "23", "connection refused"}, {"10.98.0.1", "22", "not in the tunnel: no peer has the address in its AllowedIPs"},
	} {
		expect(t, nb.run(wiceGo(), "nc", iface, c.host, c.port), 1, c.why)
	}
	// A peer that is gone: an answer, though there are connections that were kept for more requests.
	nb.down()
	for _, port := range []string{"80", "82"} {
		r := curl(append(plain, "--max-time", "30", "-w", "%{http_code}", "http://"+nb.addr.String()+":"+port+"/")...)
		if !strings.HasSuffix(r.stdout, "504") || !regexp.MustCompile(`: no answer within \d+s \(peer `+nb.name+` is connecting: `).MatchString(r.stdout) {
			t.Errorf("peer gone: want status 504 soon, and the reason: %v", r)
		}
		t.Logf("peer gone: after %v: %s", r.took.Round(ms), r.stdout)
	}
	for _, pid := range na.daemons() {
		if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || strings.Contains(string(args), secret) {
			t.Errorf("the command line %q has the password, or %v", args, err)
		}
	}
	expect(t, asNobody(na, "down", iface), 0)
	na.gone(cleanLimit)
	removeNobody(na)
	na.asBefore(before, cleanLimit)
}

// serveHTTP answers every request to the node's host with one page.
func serveHTTP(n *node, at netip.AddrPort, page string) {
	n.w.t.Helper()
	err := n.host.Do(func() error {
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			return err
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) })}
		go func() { _ = server.Serve(l) }()
		n.w.t.Cleanup(func() { server.Close() })
		return nil
	})
	if err != nil {
		n.w.t.Fatalf("%s: HTTP server on %s: %v", n.name, at, err)
	}
}

// serveBanner sends a text to who connects to the node's host, after they have ended their direction.
func serveBanner(n *node, at netip.AddrPort, text string) {
	n.w.t.Helper()
	err := n.host.Do(func() error {
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			return err
		}
		n.w.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, c)
				_, _ = io.WriteString(c, text)
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		n.w.t.Fatalf("%s: server on %s: %v", n.name, at, err)
	}
}

// serveDNS is a DNS server on the node's host that knows dnsName, as its own address.
func serveDNS(n *node, at netip.AddrPort) {
	n.w.t.Helper()
	err := n.host.Do(func() error {
		c, err := net.ListenPacket("udp", at.String())
		if err != nil {
			return err
		}
		n.w.t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 2048)
			for {
				k, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				var m dnsmessage.Message
				if m.Unpack(buf[:k]) != nil || len(m.Questions) != 1 {
					continue
				}
				q := m.Questions[0]
				m.Response, m.RCode = true, dnsmessage.RCodeNameError
				if q.Name.String() == dnsName+"." {
					m.RCode = dnsmessage.RCodeSuccess
					if q.Type == dnsmessage.TypeA {
						m.Answers = []dnsmessage.Resource{{
							Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type},
							Body:   &dnsmessage.AResource{A: at.Addr().As4()},
						}}
					}
				}
				if answer, err := m.Pack(); err == nil {
					_, _ = c.WriteTo(answer, from)
				}
			}
		}()
		return nil
	})
	if err != nil {
		n.w.t.Fatalf("%s: DNS server on %s: %v", n.name, at, err)
	}
}

// askDNS asks a server for dnsName by UDP through a SOCKS5 proxy on the node's host.
func askDNS(n *node, proxy, server string) (netip.Addr, error) {
	var answer []byte
	err := n.host.Do(func() error {
		control, err := net.DialTimeout("tcp", proxy, patience)
		if err != nil {
			return err
		}
		defer control.Close()
		_ = control.SetDeadline(time.Now().Add(patience))
		if _, err := control.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
			return err
		}
		var reply [2 + 10]byte
		if _, err := io.ReadFull(control, reply[:]); err != nil {
			return err
		}
		if reply[3] != 0 || reply[5] != 1 {
			return fmt.Errorf("reply %v", reply)
		}
		relay := netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[6:10])), binary.BigEndian.Uint16(reply[10:]))
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		query := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName(dnsName + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
		}}}
		packed, err := query.Pack()
		if err != nil {
			return err
		}
		head := append([]byte{0, 0, 0, 3, byte(len(server))}, server...)
		if _, err := c.Write(append(append(head, 0, 53), packed...)); err != nil {
			return err
		}
		buf := make([]byte, 2048)
		k, err := c.Read(buf)
		if err != nil {
			return err
		}
		if k < 10 || buf[3] != 1 {
			return fmt.Errorf("got %v", buf[:k])
		}
		answer = buf[10:k]
		return nil
	})
	if err != nil {
		return netip.Addr{}, err
	}
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil {
		return netip.Addr{}, err
	}
	for _, a := range m.Answers {
		if body, ok := a.Body.(*dnsmessage.AResource); ok {
			return netip.AddrFrom4(body.A), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address in %v", m)
}
