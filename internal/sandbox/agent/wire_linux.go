package agent

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// maxFrame bounds a message: an environment may be large, but what a machine sends is not to be trusted.
const maxFrame = 16 << 20

// maxFiles is the number of files that one message can carry.
const maxFiles = 32

// errFrame says that the other side does not speak this protocol.
var errFrame = errors.New("malformed message")

// Message is what either side may send: one method writes and reads it, so both always agree.
type Message interface{ code(c *coder) }

// coder writes a message's fields to buf, or reads them from it.
type coder struct {
	buf  []byte
	read bool
	bad  bool
}

func (c *coder) int(v *int) {
	if !c.read {
		c.buf = binary.AppendVarint(c.buf, int64(*v))
		return
	}
	n, size := binary.Varint(c.buf)
	if size <= 0 {
		c.bad = true
		return
	}
	*v, c.buf = int(n), c.buf[size:]
}

func (c *coder) bool(v *bool) {
	n := 0
	if *v {
		n = 1
	}
	c.int(&n)
	*v = n == 1
}

func (c *coder) string(v *string) {
	n := len(*v)
	c.int(&n)
	if !c.read {
		c.buf = append(c.buf, *v...)
		return
	}
	if n < 0 || n > len(c.buf) {
		c.bad = true
		return
	}
	*v, c.buf = string(c.buf[:n]), c.buf[n:]
}

func (c *coder) strings(v *[]string) {
	for i := range list(c, v) {
		c.string(&(*v)[i])
	}
}

// list codes the length of *v and makes room for as many elements when reading. An element takes at least a byte,
// so a hostile length can not make it allocate more than the message is long.
func list[T any](c *coder, v *[]T) []T {
	n := len(*v)
	c.int(&n)
	if c.bad || n < 0 || c.read && n > len(c.buf) {
		c.bad = true
		return nil
	}
	if c.read {
		*v = nil
		if n > 0 {
			*v = make([]T, n)
		}
	}
	return *v
}

// header precedes every message: who it belongs to and what it is.
type header struct {
	id, op int
}

func (h *header) code(c *coder) { c.int(&h.id); c.int(&h.op) }

// encode gives a frame: length, header, message.
func encode(h header, m Message) []byte {
	c := &coder{buf: make([]byte, 4, 256)}
	h.code(c)
	if m != nil {
		m.code(c)
	}
	binary.LittleEndian.PutUint32(c.buf, uint32(len(c.buf)-4))
	return c.buf
}

// decode reads m from a frame's body after the header.
func decode(body []byte, m Message) error {
	c := &coder{buf: body, read: true}
	m.code(c)
	if c.bad || len(c.buf) != 0 {
		return errFrame
	}
	return nil
}

// frame is a received message that is not decoded yet.
type frame struct {
	header
	body  []byte
	files []int // close-on-exec; the receiver owns them
}

func (f *frame) closeFiles() {
	for _, fd := range f.files {
		unix.Close(fd)
	}
	f.files = nil
}

// pipe is one end of a stream socket on which messages with files go both ways. Blocking: for the small processes
// that do nothing else. One goroutine may receive; several may send.
type pipe struct {
	fd   int
	send sync.Mutex
}

func (p *pipe) write(h header, m Message, files ...int) error {
	b := encode(h, m)
	p.send.Lock()
	defer p.send.Unlock()
	n, err := retry(func() (int, error) { return unix.SendmsgN(p.fd, b, rights(files), nil, unix.MSG_NOSIGNAL) })
	for err == nil && n < len(b) {
		b = b[n:]
		n, err = retry(func() (int, error) { return unix.SendmsgN(p.fd, b, nil, nil, unix.MSG_NOSIGNAL) })
	}
	return err
}

func rights(files []int) []byte {
	if len(files) == 0 {
		return nil
	}
	return unix.UnixRights(files...)
}

func (p *pipe) read() (f frame, err error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(p.fd, head[:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_WAITALL)
		if err != unix.EINTR {
			break
		}
	}
	if err == nil && n == 0 {
		return f, io.EOF
	}
	if f.files = received(oob[:oobn]); err == nil && n != len(head) {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = p.readBody(&f, binary.LittleEndian.Uint32(head[:]))
	}
	if err != nil {
		f.closeFiles()
	}
	return f, err
}

func (p *pipe) readBody(f *frame, size uint32) error {
	if size > maxFrame {
		return errFrame
	}
	body := make([]byte, size)
	for at := 0; at < len(body); {
		n, err := retry(func() (int, error) { return unix.Read(p.fd, body[at:]) })
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		at += n
	}
	return f.open(body)
}

// open splits a frame's bytes into header and body.
func (f *frame) open(b []byte) error {
	c := &coder{buf: b, read: true}
	f.header.code(c)
	if c.bad {
		return errFrame
	}
	f.body = c.buf
	return nil
}

// received takes the files out of a message's control data.
func received(oob []byte) (files []int) {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			files = append(files, fds...)
		}
	}
	return files
}

func retry(f func() (int, error)) (n int, err error) {
	for {
		if n, err = f(); err != unix.EINTR {
			return n, err
		}
	}
}
