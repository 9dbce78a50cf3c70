package agent

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConnectInterrupted has signals come while a connection waits: it is neither refused nor given up for them.
func TestConnectInterrupted(t *testing.T) {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	ip := netip.MustParseAddr("127.0.0.1")
	if err := unix.Bind(l, sockaddr(ip, 0)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 0); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	port := at.(*unix.SockaddrInet4).Port
	first, err := connect(ip, port) // all that the queue holds
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(first)

	thread, done := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		s, err := connect(ip, port)
		if err == nil {
			unix.Close(s)
		}
		done <- err
	}()
	id, tick := <-thread, time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != unix.ETIMEDOUT {
				t.Errorf("got %v, want that it waited", err)
			}
			return
		case <-tick.C:
			_ = unix.Tgkill(unix.Getpid(), id, unix.SIGURG)
		}
	}
}
