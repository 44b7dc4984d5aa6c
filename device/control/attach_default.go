//go:build !linux

package control

import (
	"errors"
	"net"
	"os"
)

func sendFile(net.Conn, *os.File) error { return errors.ErrUnsupported }

func receiveFile(net.Conn) (*os.File, error) { return nil, errors.ErrUnsupported }
