package daemon

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLog bounds a log file: then it becomes log.1, in place of the one before.
const maxLog = 16 << 20

// logger writes a log file that does not grow without end.
type logger struct {
	path   string
	stderr bool // it is this process' standard error too, where the Go runtime writes when it crashes

	mu   sync.Mutex
	f    *os.File
	size int64
}

func openLog(path string, stderr bool) (*logger, error) {
	l := &logger{path: path, stderr: stderr}
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
	if !l.stderr {
		return nil
	}
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
