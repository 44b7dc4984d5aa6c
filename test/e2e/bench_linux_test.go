package e2e

import (
	"testing"
	"time"

	"github.com/wice-go/wice-go/test/natlab"
)

// BenchmarkTimeToFirstPing measures the time from the second "up" to the first answered ping.
func BenchmarkTimeToFirstPing(b *testing.B) {
	for _, c := range []struct {
		name       string
		lab        natlab.Config
		rendezvous bool
	}{
		{"lan", natlab.Config{LANOnly: true, A: natlab.Site{Hosts: 2}}, false},
		{"port-restricted", natlab.Config{A: natlab.Site{NAT: natlab.PortRestricted}, B: natlab.Site{NAT: natlab.PortRestricted}}, true},
		{"relay", natlab.Config{A: natlab.Site{NAT: natlab.Symmetric}, B: natlab.Site{NAT: natlab.Symmetric}}, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, c.lab)
			if c.rendezvous {
				w.rendezvous()
			}
			hosts := append(w.lab.A, w.lab.B...)
			na, nb := w.node(hosts[0]), w.node(hosts[1])
			join(na, nb)
			var sum time.Duration
			for _, d := range w.secondUp(na, nb, b.N) {
				sum += d
			}
			b.ReportMetric(float64(sum.Milliseconds())/float64(b.N), "ms/first-ping")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkRestart measures how long a tunnel is away when a daemon behind a port restricted NAT is killed and started again.
func BenchmarkRestart(b *testing.B) {
	_, na, nb := newPair(b, natlab.PortRestricted)
	na.up()
	nb.upAndPing(na)
	var sum time.Duration
	for range b.N {
		_, outage, _ := nb.killAndUp(na)
		sum += outage
	}
	b.ReportMetric(float64(sum.Milliseconds())/float64(b.N), "ms/outage")
	b.ReportMetric(0, "ns/op")
}
