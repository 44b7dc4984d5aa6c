package e2e

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/wice-go/wice-go/test/natlab"
)

func TestZZ(t *testing.T) {
	w := newWorld(t, natlab.Config{A: natlab.Site{NAT: natlab.Symmetric}, B: natlab.Site{NAT: natlab.Symmetric}})
	w.rendezvous()
	na, nb := w.node(w.lab.A[0]), w.node(w.lab.B[0])
	join(na, nb)
	na.up()
	nb.upAndPing(na)
	pid := nb.daemons()[0]
	time.AfterFunc(900*time.Millisecond, func() { syscall.Kill(pid, syscall.SIGQUIT) })
	nb.run(wiceGo(), "down", "wg0")
	p, _ := nb.host.Path("/run/log/wg0.log")
	b, _ := os.ReadFile(p)
	os.WriteFile("/tmp/zz.log", b, 0o644)
}
