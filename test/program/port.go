package program

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
)

const (
	firstPort   = 10000 // below those that systems give out for port 0 (IANA's begin at 49152, Linux's at 32768)
	portsEach   = 40    // of a process
	portedUsers = 500   // processes whose ports differ
)

var nextPort atomic.Int64

// FreePort returns a port that no other program has, for TCP or UDP, and that none gets by asking for any, as it could with a port that was in use
// and is free again: tests run beside each other. Other tests with FreePort have other ports.
func FreePort() (int, error) {
	for range portsEach {
		port := firstPort + os.Getpid()%portedUsers*portsEach + int(nextPort.Add(1))%portsEach
		address := fmt.Sprintf(":%d", port)
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			if c, err := net.ListenPacket("udp", address); err == nil {
				c.Close()
				return port, nil
			}
		}
	}
	return 0, errors.New("none of this process's ports is free")
}
