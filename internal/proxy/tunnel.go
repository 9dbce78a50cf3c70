package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tunnelEnd is how long one direction of a tunnel may go on when the other has ended.
const tunnelEnd = 30 * time.Second

// tunnel carries what both sides say after they have agreed on another protocol, until both have ended. stop takes back
// that the end of the request ends the connection: what net/http knows as the request ends here.
func (x *exchange) tunnel(u *upstream, res *http.Response, stop func() bool) {
	if asked := x.head.upgrade; asked == "" || !strings.EqualFold(asked, res.Header.Get("Upgrade")) || x.streams {
		x.pool.counters.resets.Add(1)
		x.fail(http.StatusBadGateway, "the service switched to a protocol that nobody asked for", fmt.Errorf("101 to %q, asked for %q", res.Header.Get("Upgrade"), asked))
		return
	}
	_ = u.SetDeadline(time.Time{})
	stop()
	client, buffered, err := x.rc.Hijack()
	if err != nil {
		x.fail(http.StatusBadGateway, "this connection cannot change its protocol", err)
		return
	}
	defer client.Close()
	defer u.Close()
	x.status, x.wrote, x.upgraded = http.StatusSwitchingProtocols, true, true
	x.count(time.Since(x.began)) // now: the rest is not the service's latency

	h := x.w.Header()
	h.Del("Connection")
	copyHeader(h, res.Header)
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, res.Header["Upgrade"]
	h["X-Request-Id"] = []string{x.head.id}
	var begin strings.Builder
	fmt.Fprintf(&begin, "HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(&begin)
	begin.WriteString("\r\n")
	if _, err := io.WriteString(client, begin.String()); err != nil {
		x.err = fmt.Errorf("the client went away: %w", err)
		return
	}

	var both sync.WaitGroup
	both.Go(func() { x.sent = carry(client, u.Conn, u.br) })
	x.in = carry(u.Conn, client, buffered.Reader)
	both.Wait()
}

// carry copies one direction of a tunnel, at first what has been read of it already, and gives the number of bytes. An
// idle tunnel holds a small buffer; the large one is for when there is much to carry.
func carry(to, from net.Conn, begun *bufio.Reader) (total int64) {
	var small [2 << 10]byte
	var large *[32 << 10]byte
	defer func() {
		if large != nil {
			buffers.Put(large)
		}
	}()
	source := io.Reader(begun)
	for {
		buf := small[:]
		if large != nil {
			buf = large[:]
		}
		if source == begun && begun.Buffered() == 0 {
			source = from
		}
		n, err := source.Read(buf)
		total += int64(n)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				_ = to.Close()
				_ = from.Close()
				return total
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				_ = to.SetReadDeadline(time.Now().Add(tunnelEnd))
				return total
			}
			_ = to.Close()
			return total
		case err != nil:
			_ = to.Close()
			_ = from.Close()
			return total
		case n == len(buf) && large == nil:
			large = buffers.Get().(*[32 << 10]byte)
		case n < len(small) && large != nil:
			buffers.Put(large)
			large = nil
		}
	}
}
