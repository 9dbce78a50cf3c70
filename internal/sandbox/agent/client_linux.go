package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrGone says that the process at the other end has ended.
var ErrGone = errors.New("the machine has ended")

var errTooLong = errors.New("arguments and environment are too long")

// Client sends requests to a process of this package and hands out its replies. It is safe for concurrent use.
type Client struct {
	file *os.File
	conn syscall.RawConn
	send sync.Mutex
	done chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	last    int
	waiting map[int]chan frame
	gone    bool
}

// NewClient takes over one end of a stream socket pair, which must not block.
func NewClient(end *os.File) (*Client, error) {
	conn, err := end.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Client{file: end, conn: conn, done: make(chan struct{}), waiting: map[int]chan frame{}}
	go c.receive()
	return c, nil
}

// Close ends the connection; the process at the other end exits. All calls under way return ErrGone.
func (c *Client) Close() {
	c.file.Close()
	<-c.done
}

// Call is a request under way that may be answered several times.
type Call struct {
	c       *Client
	id      int
	answers chan frame
}

// Start sends a request. The caller must call End.
func (c *Client) Start(op int, m Message, files ...int) (*Call, error) {
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return nil, ErrGone
	}
	c.last++
	call := &Call{c: c, id: c.last, answers: make(chan frame, 2)}
	c.waiting[call.id] = call.answers
	c.mu.Unlock()
	if err := c.write(header{call.id, op}, m, files); err != nil {
		call.End()
		return nil, ErrGone
	}
	return call, nil
}

func (c *Client) write(h header, m Message, files []int) error {
	b := encode(h, m)
	if len(b) > maxFrame {
		return errTooLong
	}
	c.send.Lock()
	defer c.send.Unlock()
	oob := rights(files)
	for len(b) > 0 {
		var n int
		var err error
		wait := c.conn.Write(func(fd uintptr) bool {
			n, err = retry(func() (int, error) { return unix.SendmsgN(int(fd), b, oob, nil, unix.MSG_NOSIGNAL) })
			return err != unix.EAGAIN
		})
		if err = errors.Join(wait, err); err != nil {
			return err
		}
		b, oob = b[n:], nil
	}
	return nil
}

// Wait gives the next answer: it reads it into m, and gives the files that came with it. An answer that says an
// error is that error.
func (l *Call) Wait(ctx context.Context, m Message) ([]*os.File, error) {
	select {
	case f, ok := <-l.answers:
		if !ok {
			return nil, ErrGone
		}
		return l.open(f, m)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *Call) open(f frame, m Message) ([]*os.File, error) {
	if f.op == opError {
		f.closeFiles()
		var e failure
		if err := decode(f.body, &e); err != nil {
			return nil, err
		}
		return nil, e.err()
	}
	if m != nil {
		if err := decode(f.body, m); err != nil {
			f.closeFiles()
			return nil, err
		}
	}
	files := make([]*os.File, len(f.files))
	for i, fd := range f.files {
		files[i] = os.NewFile(uintptr(fd), "received")
	}
	return files, nil
}

// End forgets the call; answers that come later are dropped.
func (l *Call) End() {
	l.c.mu.Lock()
	delete(l.c.waiting, l.id)
	l.c.mu.Unlock()
	for {
		select {
		case f, ok := <-l.answers:
			if !ok {
				return
			}
			f.closeFiles()
		default:
			return
		}
	}
}

// Do sends a request and waits for its one answer, which it reads into answer if that is not nil.
func (c *Client) Do(ctx context.Context, op int, m, answer Message, files ...int) ([]*os.File, error) {
	call, err := c.Start(op, m, files...)
	if err != nil {
		return nil, err
	}
	defer call.End()
	return call.Wait(ctx, answer)
}

func (c *Client) receive() {
	defer close(c.done)
	for {
		f, err := c.read()
		if err != nil {
			break
		}
		c.deliver(f)
	}
	c.mu.Lock()
	c.gone = true
	for _, answers := range c.waiting {
		close(answers)
	}
	clear(c.waiting)
	c.mu.Unlock()
}

// deliver gives an answer to who waits for it. It never blocks: a process that answers more often than it was asked
// to loses its answers.
func (c *Client) deliver(f frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case c.waiting[f.id] <- f:
	default:
		f.closeFiles()
	}
}

func (c *Client) read() (f frame, err error) {
	var head [4]byte
	if err = c.fill(head[:], &f.files); err == nil {
		err = c.readBody(&f, binary.LittleEndian.Uint32(head[:]))
	}
	if err != nil {
		f.closeFiles()
	}
	return f, err
}

func (c *Client) readBody(f *frame, size uint32) error {
	if size > maxFrame {
		return errFrame
	}
	body := make([]byte, size)
	if err := c.fill(body, &f.files); err != nil {
		return err
	}
	return f.open(body)
}

// fill reads len(b) bytes and adds the files that come with them to files.
func (c *Client) fill(b []byte, files *[]int) error {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	for len(b) > 0 {
		var n, oobn int
		var err error
		wait := c.conn.Read(func(fd uintptr) bool {
			for {
				n, oobn, _, _, err = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC)
				if err != unix.EINTR {
					return err != unix.EAGAIN
				}
			}
		})
		if err = errors.Join(wait, err); err != nil {
			return err
		}
		*files = append(*files, received(oob[:oobn])...)
		if n == 0 {
			return io.EOF
		}
		b = b[n:]
	}
	return nil
}
