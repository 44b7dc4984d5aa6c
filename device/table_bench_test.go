package device

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal/inproc"
)

// BenchmarkSetPeer adds a peer to an interface that is up and has many, and removes it, in two set operations.
func BenchmarkSetPeer(b *testing.B) {
	for _, peers := range []int{1, 10_000} {
		b.Run(fmt.Sprint("peers=", peers), func(b *testing.B) {
			c := &config.Config{Interface: config.Interface{PrivateKey: key.NewPrivate(), Lazy: true}}
			d, err := New(Options{Config: c, Tun: newDownTUN(), Backends: inprocBackend(new(inproc.Bus)), Logger: discard})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			section := func(i int) string {
				return fmt.Sprintf("public_key=%[1]s\nallowed_ip=10.%[2]d.%[3]d.%[4]d/32\nendpoint=127.%[2]d.%[3]d.%[4]d:9\n", key.NewPrivate().Public().Hex(), i>>16, i>>8&255, i&255)
			}
			var all strings.Builder
			for i := range peers {
				all.WriteString(section(i))
			}
			if err := d.ipcSet([]byte(all.String())); err != nil {
				b.Fatal(err)
			}
			if err := d.Up(0); err != nil {
				b.Fatal(err)
			}
			add := section(peers)
			remove := add[:strings.Index(add, "\n")+1] + "remove=true\n"
			b.ReportAllocs()
			for b.Loop() {
				for _, text := range []string{add, remove} {
					if err := d.ipcSet([]byte(text)); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkMoveAllowedIPs moves all allowed IPs of a peer to another one, as when a file is read again in which they stand with the other. What one
// of them costs does not depend on how many there are.
func BenchmarkMoveAllowedIPs(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprint("count=", count), func(b *testing.B) {
			d, err := New(Options{Config: &config.Config{Interface: config.Interface{PrivateKey: key.NewPrivate()}}, Tun: newDownTUN(), Logger: discard})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			var allowed strings.Builder
			for i := range count {
				fmt.Fprintf(&allowed, "allowed_ip=10.%d.%d.%d/32\n", i>>16, i>>8&255, i&255)
			}
			sections := [2]string{}
			for i := range sections {
				sections[i] = "public_key=" + key.NewPrivate().Public().Hex() + "\n" + allowed.String()
			}
			n := 0
			for b.Loop() {
				if err := d.ipcSet([]byte(sections[n%2])); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*count), "ns/allowed_ip")
		})
	}
}
