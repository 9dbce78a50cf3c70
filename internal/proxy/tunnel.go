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

// tunnel carries what both sides say after they have agreed on another protocol, until both have ended.
func (x *exchange) tunnel(u *upstream, res *response) {
	asked := x.head.upgrade
	c, ok := x.w.(*clientConn)
	if asked == "" || !strings.EqualFold(asked, res.upgrade) || x.streams || !ok {
		x.pool.counters.resets.Add(1)
		x.fail(http.StatusBadGateway, "the service switched to a protocol that nobody asked for", fmt.Errorf("101 to %q, asked for %q", res.upgrade, asked))
		return
	}
	defer u.Close()
	u.waits = nil
	x.ignore()
	_ = u.SetDeadline(time.Time{})
	_ = c.SetReadDeadline(time.Time{})
	c.tunnelled, x.upgraded = true, true
	x.status, x.wrote = res.status, true
	x.count(time.Since(x.began)) // now: the rest is not the service's latency

	h := append(passed(res.header), x.own...)
	h = append(h, field{"Connection", "Upgrade"}, field{"Upgrade", res.upgrade}, field{"X-Request-Id", x.head.id})
	if err := c.begin(&reply{status: res.status, header: h, length: -1}); err != nil {
		x.gone(err)
	}
	if err := c.flush(); err != nil {
		x.gone(err)
	}
	c.freeOut()

	var both sync.WaitGroup
	both.Go(func() { x.sent = carry(c.rw, &u.limitedConn, u.br) })
	x.in = carry(&u.limitedConn, c.rw, c.br)
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
