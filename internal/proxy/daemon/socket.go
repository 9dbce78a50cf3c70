package daemon

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenSocket listens at a path for this user alone. What was there is of a process that is gone.
func listenSocket(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // its successor listens there
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// sameUser gives only the connections of this user and of root.
type sameUser struct {
	*net.UnixListener
	log *slog.Logger
}

func (l sameUser) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		user, err := peerUser(c)
		if err == nil && (user == os.Getuid() || user == 0) {
			return c, nil
		}
		l.log.Warn("a connection to the control socket was refused", "user", user, "error", err)
		_ = c.Close()
	}
}

// maxFrame bounds a message between two processes: it holds a table or the series.
const maxFrame = 1 << 30

// maxFiles is how many files a message can carry.
const maxFiles = 8

// sendFrame writes a message, and descriptors with it.
func sendFrame(c *net.UnixConn, v any, fds ...int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	if _, _, err := c.WriteMsgUnix(head, rights, nil); err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

// descriptor duplicates what a listener or file is. (Its Fd would make the socket blocking, for the other process too.)
func descriptor(of syscall.Conn) (int, error) {
	raw, err := of.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var failed error
	if err := raw.Control(func(own uintptr) {
		fd, failed = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 3)
	}); err != nil {
		return -1, err
	}
	return fd, failed
}

// receiveFrame reads a message and the files that came with it. They are the caller's, also with an error.
func receiveFrame(c *net.UnixConn, v any) (files []*os.File, err error) {
	head, rights := make([]byte, 4), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, rn, _, _, err := c.ReadMsgUnix(head, rights)
	if rn > 0 {
		messages, _ := unix.ParseSocketControlMessage(rights[:rn])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				syscall.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), "handed"))
			}
		}
	}
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return files, err
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return files, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxFrame {
		return files, fmt.Errorf("a message of %d bytes", size)
	}
	// What is said to come is believed only as it comes.
	body := io.LimitReader(c, int64(size))
	return files, json.NewDecoder(body).Decode(v)
}
