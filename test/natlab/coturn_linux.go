package natlab

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// CoTURNOptions describes a TURN server. The zero value is useful.
type CoTURNOptions struct {
	Port     uint16 // STUN and TURN over UDP and TCP; 0 means 3478
	TLSPort  uint16 // TURN over TLS and DTLS; 0 means 5349
	Username string // "" means natlab
	Password string // "" means secret
	// NoUDP and NoTCP switch the transports of clients off; TLS stays.
	NoUDP, NoTCP bool
}

// TURN is a running coturn. All fields are constant.
type TURN struct {
	Addr4, Addr6       netip.Addr // invalid without that family
	Port, TLSPort      uint16
	Username, Password string
	// CertFile is the PEM certificate of the server, signed by itself for its addresses.
	CertFile string

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone
	log    *lockedBuffer
}

// lockedBuffer is a buffer that can be read while a process writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Log returns what the server printed so far.
func (s *TURN) Log() string { return s.log.String() }

// PID returns the number of the server's process.
func (s *TURN) PID() int { return s.cmd.Process.Pid }

// Stop kills the server, as a crash does. It returns when the process is gone; more calls do nothing.
func (s *TURN) Stop() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// startWait is how long coturn may take until it answers.
const startWait = 15 * time.Second

// CoTURN runs coturn's turnserver on a host until the test ends, and returns
// when it answers on every transport. It ends the test on error.
func CoTURN(t testing.TB, h *Host, o CoTURNOptions) *TURN {
	t.Helper()
	if _, err := exec.LookPath("turnserver"); err != nil {
		t.Fatal("turnserver is missing: install the package coturn")
	}
	s := &TURN{Addr4: h.Addr4(), Addr6: h.Addr6(), Port: o.Port, TLSPort: o.TLSPort,
		Username: o.Username, Password: o.Password, log: new(lockedBuffer), exited: make(chan struct{})}
	if s.Port == 0 {
		s.Port = 3478
	}
	if s.TLSPort == 0 {
		s.TLSPort = 5349
	}
	if s.Username == "" {
		s.Username = "natlab"
	}
	if s.Password == "" {
		s.Password = "secret"
	}
	dir := t.TempDir()
	s.CertFile = filepath.Join(dir, "cert.pem")
	keyFile := filepath.Join(dir, "key.pem")
	if err := selfSigned(s.CertFile, keyFile, s.addresses()); err != nil {
		t.Fatalf("make certificate for coturn: %v", err)
	}
	args := []string{"-n", "--log-file=stdout", "--simple-log", "--no-cli", "--verbose",
		"--userdb=" + filepath.Join(dir, "turndb"), "--pidfile=" + filepath.Join(dir, "pid"),
		"--lt-cred-mech", "--realm=natlab", "--user=" + s.Username + ":" + s.Password,
		"--listening-port=" + strconv.Itoa(int(s.Port)), "--tls-listening-port=" + strconv.Itoa(int(s.TLSPort)),
		"--cert=" + s.CertFile, "--pkey=" + keyFile}
	for _, a := range s.addresses() {
		args = append(args, "--listening-ip="+a.String(), "--relay-ip="+a.String())
	}
	if !s.Addr4.IsValid() {
		// Clients that name no family would get IPv4, which is not there.
		args = append(args, "--allocation-default-address-family=keep")
	}
	if o.NoUDP {
		args = append(args, "--no-udp")
	}
	if o.NoTCP {
		args = append(args, "--no-tcp")
	}
	s.cmd = h.Command(context.Background(), "turnserver", args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start coturn: %v", err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(s.Stop)
	if err := s.wait(h, o); err != nil {
		t.Fatalf("start coturn: %v\n%s", err, s.Log())
	}
	return s
}

func (s *TURN) addresses() []netip.Addr {
	var all []netip.Addr
	for _, a := range []netip.Addr{s.Addr4, s.Addr6} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// wait returns when every listener answers.
func (s *TURN) wait(h *Host, o CoTURNOptions) error {
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	deadline := time.After(startWait)
	for {
		err := h.Do(func() error { return s.probe(o) })
		if err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-s.exited:
			return fmt.Errorf("it ended: %v", s.cmd.ProcessState)
		case <-deadline:
			return fmt.Errorf("no answer after %v: %w", startWait, err)
		}
	}
}

func (s *TURN) probe(o CoTURNOptions) error {
	for _, a := range s.addresses() {
		ports := []uint16{s.TLSPort}
		if !o.NoTCP {
			ports = append(ports, s.Port)
		}
		for _, port := range ports {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(a, port).String(), time.Second)
			if err != nil {
				return err
			}
			c.Close()
		}
		if o.NoUDP {
			continue
		}
		if err := probeSTUN(netip.AddrPortFrom(a, s.Port)); err != nil {
			return err
		}
	}
	return nil
}

// probeSTUN sends one Binding request (RFC 8489 section 5) and waits for any answer.
func probeSTUN(to netip.AddrPort) error {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	request := []byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 'n', 'a', 't', 'l', 'a', 'b', 'p', 'r', 'o', 'b', 'e', 0}
	if _, err := c.Write(request); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1500))
	return err
}

// selfSigned writes a certificate for the addresses and its key.
func selfSigned(certFile, keyFile string, addresses []netip.Addr) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "natlab"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true,
	}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
