package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/test/natlab"
)

// The variants of an interface with many peers that are never spoken to: a bare one, set up by wg alone. Off has no peer that takes part in
// ICE, and with Lazy none that begins by itself.
var peersVariants = []string{"plain", "off", "lazy", "ice"}

// peersIdle is how long an interface with many peers is left alone before what it takes is measured.
const peersIdle = 5 * time.Second

// TestPeers sets up an interface with many peers by one "wg setconf", and looks whether all are there, and only they; with -peers it measures.
func TestPeers(t *testing.T) {
	n, times := 2000, 1
	if *measurePeers > 0 {
		n, times = *measurePeers, *rounds
	}
	lab := natlab.New(t, natlab.Config{Cable: true})
	host := lab.A[0]
	var peers []key.Public
	for range n {
		peers = append(peers, key.NewPrivate().Public())
	}
	var f figures
	for round := range times {
		f.begin()
		for i := range peersVariants {
			variant := peersVariants[(round+i)%len(peersVariants)]
			t.Run(fmt.Sprintf("%d/%s", round, variant), func(t *testing.T) { manyPeers(t, host, variant, peers, &f) })
		}
	}
	if *measurePeers > 0 && !t.Failed() {
		var with []comparison
		for _, v := range peersVariants[1:] {
			with = append(with, comparison{v, peersVariants[0]})
		}
		t.Logf("\n%d peers, rounds: %d. %s\n\n%s\n%s", n, times, machine(), f.valueTable(), f.ratioTable(with))
	}
}

func manyPeers(t *testing.T, host *natlab.Host, variant string, peers []key.Public, f *figures) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	binary, err := wireguardGo()
	if variant != "plain" {
		binary, err = wiceGo()
	}
	if err != nil {
		t.Fatal(err)
	}
	private := key.NewPrivate()
	var setconf, additions strings.Builder
	fmt.Fprintf(&setconf, "[Interface]\nPrivateKey = %s\n", private.Base64())
	fmt.Fprintf(&additions, "[Interface]\nPrivateKey = %s\n#!wice Lazy = %t\n", private.Base64(), variant == "lazy")
	for i, pk := range peers {
		fmt.Fprintf(&setconf, "[Peer]\nPublicKey = %s\nAllowedIPs = 10.%d.%d.1/32\n", pk, i>>8, i&0xff)
		if variant == "off" {
			fmt.Fprintf(&additions, "[Peer]\nPublicKey = %s\n#!wice ICE = off\n", pk)
		}
	}
	file, err := host.Path("/etc/wireguard/" + iface + ".conf")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(additions.String()), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(file) })
	proc := start(t, host, []string{"LOG_LEVEL=error", "WICE_RUNTIME_DIR=/run"}, binary, "-f", iface)
	until(t, proc.name, func() error { _, err := output(t, host, "wg", "show", iface); return err })

	begin := time.Now()
	must(t, host, "wg", "setconf", iface, write("setconf", setconf.String()))
	f.add(variant, "wg setconf, s", time.Since(begin).Seconds())
	if *measurePeers > 0 {
		<-time.After(peersIdle)
	}
	f.add(variant, "processor time, s", proc.cpu(t).Seconds())
	f.add(variant, "resident, MB", resident(t, proc.cmd.Process.Pid))
	begin = time.Now()
	dump := must(t, host, "wg", "show", iface, "dump")
	f.add(variant, "wg show dump, ms", float64(time.Since(begin).Microseconds())/1000)

	count := func(dump string, want []key.Public) {
		t.Helper()
		if got := strings.Count(dump, "\n") - 1; got != len(want) {
			t.Errorf("got %d peers, want %d", got, len(want))
		}
		for _, pk := range want {
			if !strings.Contains(dump, pk.String()+"\t(none)\t(none)\t10.") {
				t.Fatalf("peer %s is missing, or is not as it was set", pk)
			}
		}
	}
	count(dump, peers)
	must(t, host, "wg", "set", iface, "peer", peers[0].String(), "remove")
	count(must(t, host, "wg", "show", iface, "dump"), peers[1:])
	must(t, host, "wg", "setconf", iface, write("fewer", "[Interface]\n[Peer]\nPublicKey = "+peers[1].String()+"\nAllowedIPs = 10.0.0.0/8\n"))
	count(must(t, host, "wg", "show", iface, "dump"), peers[1:2])
	proc.stop()
}

var residentLine = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// resident is the memory of a process that is in use, in MB.
func resident(t *testing.T, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := residentLine.FindSubmatch(status)
	if m == nil {
		t.Fatalf("there is no VmRSS in %s", status)
	}
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return float64(kb) / 1024
}
