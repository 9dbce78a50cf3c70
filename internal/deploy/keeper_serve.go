package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Bounds of what a keeper does at a time.
const (
	maxDials    = 512
	maxControls = 64
	dialWait    = 5 * time.Second
	acceptPause = 10 * time.Millisecond
)

// request is what a keeper is asked at its control socket: one JSON value. The answers are JSON values too.
type request struct {
	// Op is watch (a status now, and whenever it changes), stop (a status, when the program has ended), note (keep Note;
	// a status), restart (end this Start of the program for a Reason, and start it again; a status), ports (an []int: where the
	// program listens).
	Op     string `json:"op"`
	Note   *noted `json:"note,omitempty"`
	Start  int    `json:"start,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// What a connection to a keeper's dial socket brings: one message.
const (
	dialled byte = 0 // with the descriptor of a TCP socket that is connected to the program's port
	refused byte = 1 // followed by why
)

// server is the sockets of a keeper.
type server struct {
	listeners []*net.UnixListener
	accepting sync.WaitGroup
}

func (k *keeper) serve() (*server, error) {
	s := &server{}
	for _, l := range []struct {
		name   string
		most   int
		handle func(*net.UnixConn)
	}{{dialSocket, maxDials, k.handOut}, {controlSocket, maxControls, k.control}} {
		name := filepath.Join(k.dir, l.name)
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a keeper that was killed
			s.close()
			return nil, err
		}
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			s.close()
			return nil, err
		}
		s.listeners = append(s.listeners, listener)
		s.accepting.Go(func() { accept(listener, l.most, l.handle) })
	}
	return s, nil
}

// close stops accepting. Who is connected is answered to the end of the process.
func (s *server) close() {
	for _, l := range s.listeners {
		l.Close()
	}
	s.accepting.Wait()
}

// accept serves connections, at most so many at a time.
func accept(l *net.UnixListener, most int, handle func(*net.UnixConn)) {
	slots := make(chan struct{}, most)
	for {
		slots <- struct{}{}
		c, err := l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // too many open files: it passes
			<-slots
			time.Sleep(acceptPause)
			continue
		}
		go func() { // ends with the connection, or with the process
			defer func() { c.Close(); <-slots }()
			handle(c)
		}()
	}
}

// handOut gives a client a connection to the program.
func (k *keeper) handOut(c *net.UnixConn) {
	ctx, cancel := context.WithTimeout(context.Background(), dialWait)
	defer cancel()
	_ = c.SetDeadline(time.Now().Add(2 * dialWait))
	if err := k.passDial(ctx, c); err != nil {
		_, _ = c.Write(append([]byte{refused}, err.Error()...)) // who has gone needs no answer
	}
}

var errNotRunning = errors.New("the program is not running")

func (k *keeper) passDial(ctx context.Context, c *net.UnixConn) error {
	k.mu.Lock()
	s, port := k.stand, k.spec.Program.Revision.Port
	if k.status.Port != 0 {
		port = k.status.Port
	}
	k.mu.Unlock()
	if s == nil {
		return errNotRunning
	}
	conn, err := s.dial(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		_, _, sent = c.WriteMsgUnix([]byte{dialled}, syscall.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sent)
}

// maxRequest bounds a request, bytes.
const maxRequest = 64 << 10

// control answers one request.
func (k *keeper) control(c *net.UnixConn) {
	var r request
	_ = c.SetReadDeadline(time.Now().Add(dialWait))
	if err := json.NewDecoder(io.LimitReader(c, maxRequest)).Decode(&r); err != nil {
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	out := json.NewEncoder(c)
	switch r.Op {
	case "watch":
		k.watch(c, out, func(status) bool { return true })
	case "stop":
		k.stop()
		k.watch(c, out, func(s status) bool { return s.Phase == ended })
	case "note":
		k.mu.Lock()
		k.status.Note = r.Note
		s := k.status
		k.mu.Unlock()
		_ = out.Encode(s)
	case "restart":
		k.restart(r.Start, r.Reason)
		s, _ := k.now()
		_ = out.Encode(s)
	case "ports":
		k.mu.Lock()
		s := k.stand
		k.mu.Unlock()
		ports := []int{}
		if s != nil {
			ports = append(ports, s.ports()...)
		}
		_ = out.Encode(ports)
	}
}

// watch tells a client of each status that it wants to hear of, until the last or until the client has gone.
func (k *keeper) watch(c *net.UnixConn, out *json.Encoder, wanted func(status) bool) {
	gone := make(chan struct{})
	go func() { // ends when the connection is closed
		_, _ = c.Read(make([]byte, 1))
		close(gone)
	}()
	for {
		s, changed := k.now()
		if wanted(s) {
			if out.Encode(s) != nil || s.Phase == ended {
				return
			}
		}
		select {
		case <-changed:
		case <-gone:
			return
		}
	}
}
