// Package e2e runs the real wice-go across the networks of test/natlab: every pair of NATs, relays, plain WireGuard peers, crashes,
// bad input, and what is left behind. Each test makes a network of its own and speaks to the program as a user does: by configuration
// files, commands, signals, and what they print.
//
// It needs Linux, root, the programs of natlab, and wg, ping, iperf3, coturn and ncat. On other systems the package is empty. The WireGuard of
// Linux itself runs in a machine that QEMU emulates, with a kernel that "make deps" unpacks.
package e2e
