package bind
import ("testing";"net/netip")
func TestDbg(t *testing.T) {
	a, b := openBind(t, Options{}), openBind(t, Options{})
	e := a.Peer(testKey(1))
	a.Send([][]byte{initiation(1)}, e)
	t.Log(len(e.held))
	p := NewDirectPath(netip.Addr{}, b.addr4())
	t.Log(p.dst, a.sendPath([][]byte{initiation(2)}, p), p.dst.src.Load())
	t.Log(b.next(t))
}
