// Package bench measures whole tunnels: the real programs in network namespaces, with wireguard-go at both ends as the reference.
//
//	direct   a0 ---------- b0         one cable
//	relayed  a0 -- LAN -- a1          each path leads through coturn on a2
//	                |
//	               a2
//
// In every round all variants are up, each between hosts of its own, and each measure is taken once of each variant before the next one.
// So what disturbs the machine hits all of them, and what is compared are figures of one round. Around every measurement the harness checks that the packets took the wanted path: what the program says of it, the bytes on the cable, and that the
// hosts have no other way to each other.
//
// What needs no network (figures, tables, reading what programs print) is here; the harness is in the tests, and on other systems than
// Linux left out. "make bench-tunnels" runs it.
package bench
