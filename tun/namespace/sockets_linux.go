package namespace

import (
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// States of a TCP socket that has no other end, or whose program has done with it (enum in <linux/tcp_states.h>), and all states.
const (
	stateTimeWait = 6
	stateListen   = 10
	allStates     = 1<<12 - 1
)

// endConnections ends the TCP connections that leave the namespace: their programs would learn only by TCP's time-outs that nobody answers any
// more, and never if they wait for something to read. Where the kernel has no SOCK_DESTROY (sock_diag(7); Linux 4.9, INET_DIAG_DESTROY) it is so.
func endConnections() {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		// struct inet_diag_req_v2 of <linux/inet_diag.h>: family, protocol, 2 bytes, states, and the socket's identity of 48 bytes.
		request := func(kind, flags int, states uint32, id []byte) [][]byte {
			r := nl.NewNetlinkRequest(kind, flags)
			data := append([]byte{family, unix.IPPROTO_TCP, 0, 0}, nl.Uint32Attr(states)...)
			r.AddRawData(append(data, id...))
			replies, _ := r.Execute(unix.NETLINK_INET_DIAG, 0)
			return replies
		}
		for _, m := range request(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, allStates&^(1<<stateTimeWait|1<<stateListen), make([]byte, 48)) {
			// struct inet_diag_msg: family and 3 bytes, and the same identity: ports, two addresses of 16 bytes, interface and cookie.
			if id := m[4:52]; leaves(family, id[4:20], id[20:36]) {
				request(nl.SOCK_DESTROY, unix.NLM_F_ACK, 0, id)
			}
		}
	}
}

// leaves reports whether a connection goes out of the namespace.
func leaves(family byte, local, remote []byte) bool {
	n := 4
	if family == unix.AF_INET6 {
		n = 16
	}
	from, _ := netip.AddrFromSlice(local[:n])
	to, _ := netip.AddrFromSlice(remote[:n])
	return from != to && !to.Unmap().IsLoopback()
}
