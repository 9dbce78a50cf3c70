//go:build !unix

package proxy

import (
	"errors"
	"net"
)

func receive(*net.UnixConn) (net.Conn, error) {
	return nil, errors.New("this system hands out no connections")
}

const canPeek = false

func peek(uintptr) (int, error) { return 0, errors.ErrUnsupported }

func errWouldBlock(error) bool { return false }

func maxDescriptors() int { return 1 << 20 }
