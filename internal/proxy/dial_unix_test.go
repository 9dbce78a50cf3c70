//go:build unix

package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// handsOut serves connections to addr as the owner of another network does.
func handsOut(t *testing.T, answer func(c *net.UnixConn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			answer(c)
			_ = c.Close()
		}
	}()
	return "unix:" + path
}

func TestDialOfConnectionsThatAreHandedOut(t *testing.T) {
	a := startApp(t, 3)
	open := func() *os.File {
		c, err := net.Dial("tcp", a.addr)
		if err != nil {
			t.Error(err)
			return nil
		}
		defer c.Close()
		f, err := c.(*net.TCPConn).File()
		if err != nil {
			t.Error(err)
		}
		return f
	}
	var dials atomic.Int32
	good := handsOut(t, func(c *net.UnixConn) {
		dials.Add(1)
		f := open()
		defer f.Close()
		_, _, _ = c.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(f.Fd())), nil)
	})
	p := start(t, Options{})
	p.set(t, routeTo(good))
	for range 10 {
		if res, body := ask(t, "GET", p.url, ""); res.StatusCode != 200 || body != "app 3" {
			t.Fatalf("got %d %q", res.StatusCode, body)
		}
	}
	if dials.Load() != 1 {
		t.Errorf("%d connections were taken for requests one after the other", dials.Load())
	}
	for _, c := range []struct {
		want   string
		answer func(c *net.UnixConn)
	}{
		{"connection refused: nobody listens at port 8000", func(c *net.UnixConn) {
			_, _ = c.Write([]byte("\x01connection refused: "))
			_, _ = c.Write([]byte("nobody listens at port 8000\n"))
		}},
		{"without a word", func(*net.UnixConn) {}},
		{"1 bytes and 0 descriptors", func(c *net.UnixConn) { _, _ = c.Write([]byte{0}) }},
		{"3 bytes and 0 descriptors", func(c *net.UnixConn) { _, _ = c.Write([]byte("abc")) }},
		{"1 bytes and 2 descriptors", func(c *net.UnixConn) {
			f, g := open(), open()
			defer f.Close()
			defer g.Close()
			_, _, _ = c.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(f.Fd()), int(g.Fd())), nil)
		}},
		{"no reason given", func(c *net.UnixConn) { _, _ = c.Write([]byte{1}) }},
	} {
		if _, err := Dial(context.Background(), handsOut(t, c.answer)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	hold := make(chan struct{})
	defer close(hold)
	if _, err := Dial(ctx, handsOut(t, func(*net.UnixConn) { <-hold })); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestGoneWhileItWasTried sends a request to a backend that goes, with another in its place, while it is connected to: the
// request goes to that one, whole.
func TestGoneWhileItWasTried(t *testing.T) {
	echo := backendOf(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	p := start(t, Options{})
	going := handsOut(t, func(c *net.UnixConn) {
		p.set(t, routeTo(echo))
		_, _ = c.Write([]byte("\x01it has stopped"))
	})
	for _, body := range []string{"", "a body"} {
		p.set(t, routeTo(going))
		if res, got := ask(t, "POST", p.url, body); res.StatusCode != http.StatusOK || got != body {
			t.Errorf("got %d %q, want %q", res.StatusCode, got, body)
		}
	}
}
