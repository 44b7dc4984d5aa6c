// Package namespace runs a command in a network namespace of its own, whose only way out is one interface, without root. The packets of
// that interface come out of the namespace by a file that [tun.FromFile] makes a device of.
//
//	caller                     stage (this program again)            command
//	Start: clone with new  ->  interface, addresses, routes,
//	  user, mount, network     resolv.conf, hosts
//	File                   <-  descriptor of the interface
//	Run                    ->  fork and exec                     ->  runs, with the caller's user and terminal
//	Wait                   <-  exit status                       <-  ends
//
// The stage stays as the command's parent. When the command ends, or the caller does, however it ends, the stage kills all processes that are
// left in the namespace, waits for what closed connections still have to send, unless the caller has gone, and ends too. Then the kernel removes
// the namespaces. Nothing of it is on disk.
//
// It is for Linux alone, but for [CatchSignals].
package namespace
