package daemon

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLog bounds a log file: then it becomes log.1, in place of the one before.
const maxLog = 16 << 20

// logger writes a log file that does not grow without end. What the Go runtime says at a crash goes there too.
type logger struct {
	mu   sync.Mutex
	path string
	f    *os.File
	size int64
}

func openLog(path string) (*logger, error) {
	l := &logger{path: path}
	return l, l.open()
}

func (l *logger) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	if l.f != nil {
		_ = l.f.Close()
	}
	l.f, l.size = f, info.Size()
	return unix.Dup2(int(f.Fd()), 2)
}

func (l *logger) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > maxLog {
		// Another process of this directory may have done it already: then path is a young file.
		if info, err := os.Stat(l.path); err != nil || info.Size() > maxLog {
			_ = os.Rename(l.path, l.path+".1")
		}
		if err := l.open(); err != nil {
			l.size = 0 // go on with the one that is open
		}
	}
	n, err := l.f.Write(b)
	l.size += int64(n)
	return n, err
}
