// Package tun makes the kernel's TUN device and sets up what belongs to it: addresses, MTU, routes, policy routing, a
// firewall rule against spoofing, and DNS. The meaning of every setting is that of wg-quick(8).
//
// The order is always
//
//	Recover(journal) -> Open(name) -> OpenJournal -> Configure(name) -> ... -> Configured.Close -> Journal.Close -> device.Close
//
// On Linux, [OpenFile] and [FromFile] do the work of Open in two processes: one in a network namespace, and the other outside of it, where
// WireGuard is.
//
// Addresses and routes disappear with the device, and the device with the process. Everything else (rules, firewall
// tables, sysctls, DNS) would outlive a crash, so it is first written to a [Journal], and either Configured.Close or, at
// the next start, [Recover] takes it back. Nothing that stood before is ever changed without its old value being
// written down, and nothing that someone else made is removed.
//
// What stops Configure and what does not: without its addresses and routes a tunnel is of no use, so these are errors, and
// an error undoes whatever had been done. DNS, the firewall rule and one sysctl are often out of reach in containers
// where the tunnel itself works well; their failure is a warning (see [Configured.Warnings]). wg-quick fails there.
package tun
