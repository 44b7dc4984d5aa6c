// Package program builds the programs that tests run in namespaces, reads what they print (the status of wice-go and the reports of iperf3),
// and finds ports for them.
package program
