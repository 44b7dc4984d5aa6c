// Package program builds the programs that tests run in namespaces, and reads
// what they print: wice-go's status, and the reports of iperf3.
package program
