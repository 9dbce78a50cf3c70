package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/proxy"
)

// A hand-over is a conversation over a connection to the control socket, upgraded from HTTP. The new process says that it
// listens (go); the old one sends what it has: the lock, the sockets, the table, what was counted, and the series. The new
// one serves, and says so. Only then the old one gives its place up, says so, and finishes what is under way. If one of
// them goes away before, or it takes too long, the old one goes on as if nothing had been.

const (
	handOverProtocol = "penstock-handover"
	handOverTime     = 30 * time.Second

	sayGo      = 'g'
	sayServing = 's'
	sayYours   = 'y'
)

// estate is what a process leaves to the next.
type estate struct {
	PID   int         `json:"pid"`
	Table proxy.Table `json:"table"`
	// Listeners are the names of the sockets that follow the lock and the control socket.
	Listeners []string `json:"listeners"`
	Counted   counted  `json:"counted"`
}

// giveOver is the old process' side.
func (d *daemon) giveOver(w http.ResponseWriter, r *http.Request) {
	select {
	case d.turn <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	if d.handing {
		<-d.turn
		fail(w, errBusy)
		return
	}
	d.handing = true
	<-d.turn
	d.log.Info("another process takes over")
	if err := d.give(w); err != nil {
		d.log.Error("no other process has taken over; this one goes on", "error", err)
		d.turn <- struct{}{}
		d.handing = false
		<-d.turn
		return
	}
	close(d.handed)
}

func (d *daemon) give(w http.ResponseWriter) (err error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	c := conn.(*net.UnixConn)
	if err := c.SetDeadline(time.Now().Add(handOverTime)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", handOverProtocol); err != nil {
		return err
	}
	// Descriptors come with the bytes they were sent with: nothing may be sent before the other side reads just that.
	if err := expect(buffered, sayGo); err != nil {
		return err
	}
	// The series first: what they hold is then never more than what was counted.
	d.record()
	var history bytes.Buffer
	if err := d.series.Export(&history); err != nil {
		return err
	}
	left := estate{PID: os.Getpid(), Table: d.tableNow(), Counted: d.others.leaveTo(d.proxy.Collect())}
	defer func() {
		if err != nil {
			d.others.resume()
		}
	}()
	parts := []syscall.Conn{d.lock, d.control}
	for name, l := range d.listeners {
		parts = append(parts, l)
		left.Listeners = append(left.Listeners, name)
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for _, part := range parts {
		fd, err := descriptor(part)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	if err := sendFrame(c, left, fds...); err != nil {
		return err
	}
	if err := sendFrame(c, json.RawMessage(history.Bytes())); err != nil {
		return err
	}
	if err := expect(buffered, sayServing); err != nil {
		return err
	}
	// The new process looks for this one's drain socket as soon as it hears that the place is its own.
	if err := d.others.stay(d.drainHandler()); err != nil {
		return err
	}
	d.leaving.Store(true)
	if _, err = c.Write([]byte{sayYours}); err != nil {
		d.leaving.Store(false)
		d.others.withdraw()
	}
	return err
}

// takeOver is the new process' side.
func (d *daemon) takeOver(ctx context.Context, c *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	if err := d.take(c); err != nil {
		for _, l := range d.listeners {
			_ = l.Close()
		}
		return fmt.Errorf("proxy: take over from process %s, which goes on: %w", holder(d.conf.Dir), err)
	}
	return nil
}

func (d *daemon) take(c *net.UnixConn) error {
	if err := c.SetDeadline(time.Now().Add(handOverTime)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "POST /handover HTTP/1.1\r\nHost: proxy\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 0\r\n\r\n", handOverProtocol); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return failure(answer)
	}
	if _, err := c.Write([]byte{sayGo}); err != nil {
		return err
	}
	var left estate
	files, err := receiveFrame(c, &left)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if err != nil {
		return err
	}
	if len(files) != 2+len(left.Listeners) {
		return fmt.Errorf("it gave %d descriptors for %d listeners", len(files), len(left.Listeners))
	}
	d.lock = files[0]
	control, err := net.FileListener(files[1])
	if err != nil {
		return err
	}
	d.control = control.(*net.UnixListener)
	d.control.SetUnlinkOnClose(false)
	for i, name := range left.Listeners {
		l, err := net.FileListener(files[2+i])
		if err != nil {
			return err
		}
		d.listeners[name] = l.(*net.TCPListener)
	}
	files = slices.Delete(files, 0, 1) // the lock is kept
	d.others.inherit(left.PID, left.Counted)
	var history json.RawMessage
	if _, err := receiveFrame(c, &history); err != nil {
		return err
	}
	if err := d.series.Import(bytes.NewReader(history)); err != nil {
		d.log.Warn("what was measured before is lost", "error", err)
	}
	if err := d.route(left.Table); err != nil {
		return err
	}
	d.serves(left.Table)
	if err := d.listen(); err != nil {
		return err
	}
	d.serve()
	if _, err := c.Write([]byte{sayServing}); err != nil {
		return err
	}
	return expect(c, sayYours)
}

// expect reads the one byte that the other side has to say.
func expect(r io.Reader, want byte) error {
	var b [1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("the other process has gone away, or takes too long: %w", err)
	}
	if b[0] != want {
		return fmt.Errorf("the other process says %q, where %q comes", b[0], want)
	}
	return nil
}
