// Package natlab builds small internets out of Linux network namespaces, so
// that tests run the real programs across real NATs without leaving the machine.
//
//	a0 -+                                    +- b0
//	    +- siteA -- (outerA) -- router -- siteB
//	a1 -+                         |          +- b1
//	                           server
//
// A lab has two sites, each a LAN (a bridge that passes multicast) behind a
// gateway with one NAT behaviour of RFC 4787, perhaps a second NAT in front of
// it, and a server host with a public address. The router drops private
// addresses as an internet provider does. Public addresses come from 5.1.0.0/16
// and 2a0e::/16: nothing can leave the namespaces, and unlike the documentation
// ranges the software under test takes these for public.
//
// For measurements there is a world of two hosts and one cable alone.
//
// Direct paths are possible between all kinds of NAT but Symmetric with
// Symmetric or PortRestricted, which need a relay.
//
// It needs Linux, root, and the programs ip, nft, conntrack, nsenter and unshare.
// On other systems the package is empty. Labs of one process and of several live
// side by side; each is removed by the test's cleanup, and what a killed process
// left behind is removed by the next lab that is made.
package natlab
