package bench

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseCPU(t *testing.T) {
	const stat = "4711 (a) b (c) S 1 4711 4711 0 -1 4194560 3220 0 0 0 1234 66 0 0 20 0 11 0 20021 1257418752 2890 18446744073709551615"
	if got, err := parseCPU(stat); err != nil || got != 13*time.Second {
		t.Errorf("got %v, %v, want 13 s", got, err)
	}
	for _, bad := range []string{"", "4711 (a) S 1 2 3", "1 (a) S 1 4711 4711 0 -1 4194560 3220 0 0 0 x 66 0"} {
		if got, err := parseCPU(bad); err == nil {
			t.Errorf("%q: got %v and no error", bad, got)
		}
	}
}

func TestParseInterfaces(t *testing.T) {
	const dev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        1       0    0    0    0     0       0          0
  eth0: 3000123    2500    0    7    0     0          0         0  4000456    3100    0    0    0     0       0          0
`
	got, err := parseInterfaces(dev)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]traffic{"lo": {0, 1}, "eth0": {3000123, 4000456}}, got, cmp.AllowUnexported(traffic{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, bad := range []string{"eth0: 1 2\n", "eth0: a 0 0 0 0 0 0 0 0\n"} {
		if got, err := parseInterfaces(bad); err == nil {
			t.Errorf("%q: got %v and no error", bad, got)
		}
	}
}

func TestParsePings(t *testing.T) {
	const out = `PING 10.99.0.2 (10.99.0.2) 56(84) bytes of data.
64 bytes from 10.99.0.2: icmp_seq=1 ttl=64 time=0.451 ms
64 bytes from 10.99.0.2: icmp_seq=2 ttl=64 time=12.3 ms
64 bytes from 10.99.0.2: icmp_seq=2 ttl=64 time=12.4 ms (DUP!)

--- 10.99.0.2 ping statistics ---
2 packets transmitted, 2 received, +1 duplicates, 0% packet loss, time 5ms
rtt min/avg/max/mdev = 0.451/6.375/12.300/5.924 ms
`
	if diff := cmp.Diff([]float64{0.451, 12.3}, parsePings(out)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
