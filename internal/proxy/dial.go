package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const unixPrefix = "unix:"

// Dial connects to a backend's address. Behind unix:PATH listens who hands out connections, since the backend's network
// is not ours: it answers each connection with one message, and closes it. A zero byte comes with one descriptor, of a
// TCP connection to the backend (SCM_RIGHTS); a one byte is followed by text that says why there is none.
func Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	socket, ok := strings.CutPrefix(addr, unixPrefix)
	if !ok {
		return d.DialContext(ctx, "tcp", addr)
	}
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	handed, err := receive(c.(*net.UnixConn))
	if ctx.Err() != nil {
		if handed != nil {
			_ = handed.Close()
		}
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("be handed a connection by %s: %w", socket, err)
	}
	return handed, nil
}

// refused reads why there is no connection.
func refused(first []byte, c io.Reader) error {
	const longest = 1 << 10
	rest, _ := io.ReadAll(io.LimitReader(c, longest))
	text := strings.TrimSpace(string(append(first, rest...)))
	if text == "" {
		text = "no reason given"
	}
	return errors.New(text)
}
