package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Bounds of what is kept of an instance's output.
const (
	logFileSize = 2 << 20  // bytes of one file
	logFiles    = 4        // files of an instance
	maxLogLine  = 64 << 10 // bytes; what is longer is broken
	recentLines = 20       // are kept in memory, to say why a program ended
)

// logPrefix begins the names of log files. What follows is where the file begins in all that the instance has ever
// written, so that a reader finds its place again after files were rotated away.
const logPrefix = "log-"

// log keeps the lines that an instance writes, in files of a directory: the latest. It is an io.Writer that never fails,
// so that a full disk stops no program: what could not be kept is counted and told of once there is room again.
type log struct {
	dir  string
	size int64 // of one file
	hide *strings.Replacer

	mu     sync.Mutex
	part   []byte // of a line
	file   *os.File
	names  []string // files, the oldest first
	at     int64    // where the next byte is
	room   int64    // in the file
	lost   int
	recent []string
}

// openLog goes on with the log in a directory. secrets are not to be seen in it.
func openLog(dir string, size int64, secrets map[string]string) (*log, error) {
	l := &log{dir: dir, size: size, hide: hider(secrets)}
	files, err := logsOf(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		l.names = append(l.names, f.name)
		l.at = f.from + f.size
	}
	return l, nil
}

// hidden stands where a secret was.
const hidden = "***"

// hider replaces secrets, each of their lines too, the longest first.
func hider(secrets map[string]string) *strings.Replacer {
	var values []string
	for _, v := range secrets {
		values = append(values, v)
		values = append(values, strings.Split(v, "\n")...)
	}
	values = slices.DeleteFunc(values, func(v string) bool { return strings.TrimSpace(v) == "" })
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, v := range slices.Compact(values) {
		pairs = append(pairs, v, hidden)
	}
	return strings.NewReplacer(pairs...)
}

// Write implements io.Writer.
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		n := i + 1
		if i < 0 {
			n = len(rest)
		}
		n = min(n, maxLogLine-len(l.part))
		l.part = append(l.part, rest[:n]...)
		rest = rest[n:]
		if i >= 0 || len(l.part) == maxLogLine {
			l.flush()
		}
	}
	return len(p), nil
}

// end writes what there is of an unfinished line.
func (l *log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
}

// say writes a line of our own.
func (l *log) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	l.put("[penstock] " + fmt.Sprintf(format, args...))
}

// tail gives the last lines, and forgets them.
func (l *log) tail() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.recent
	l.recent = nil
	return lines
}

func (l *log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// flush writes the line that is there.
func (l *log) flush() {
	if len(l.part) == 0 {
		return
	}
	line := l.hide.Replace(strings.TrimRight(string(l.part), "\r\n"))
	l.part = l.part[:0]
	if l.recent = append(l.recent, line); len(l.recent) > recentLines {
		l.recent = slices.Delete(l.recent, 0, len(l.recent)-recentLines)
	}
	l.put(line)
}

// put writes a whole line to the file.
func (l *log) put(line string) {
	if l.lost > 0 {
		line = fmt.Sprintf("[penstock] %d lines were lost: there was no room for them\n%s", l.lost, line)
	}
	if err := l.append([]byte(line + "\n")); err != nil {
		l.lost++
		return
	}
	l.lost = 0
}

func (l *log) append(b []byte) error {
	if l.file == nil || l.room < int64(len(b)) {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(b)
	l.at += int64(n)
	l.room -= int64(n)
	if err != nil && n > 0 { // a piece of a line is none
		if bad := l.file.Truncate(l.size - l.room - int64(n)); bad == nil {
			l.at -= int64(n)
			l.room += int64(n)
		}
	}
	return err
}

// rotate begins a new file, and removes the oldest.
func (l *log) rotate() error {
	name := fmt.Sprintf("%s%016d", logPrefix, l.at)
	f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.room = f, l.size
	if !slices.Contains(l.names, name) {
		l.names = append(l.names, name)
	}
	for len(l.names) > logFiles {
		_ = os.Remove(filepath.Join(l.dir, l.names[0])) // a later one takes its place in any case
		l.names = l.names[1:]
	}
	return nil
}

// logFile is one file of a log.
type logFile struct {
	name       string
	from, size int64
}

// logsOf lists the log files of a directory, the oldest first.
func logsOf(dir string) ([]logFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []logFile
	for _, e := range entries { // by name, so by place
		at, ok := strings.CutPrefix(e.Name(), logPrefix)
		from, err := strconv.ParseInt(at, 10, 64)
		if !ok || err != nil || from < 0 {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // just rotated away
		}
		if err != nil {
			return nil, err
		}
		files = append(files, logFile{e.Name(), from, info.Size()})
	}
	return files, nil
}

// logReader reads a log that may grow and be rotated meanwhile.
type logReader struct {
	dir string
	at  int64
}

// readTail writes the last lines, and gives a reader that goes on behind them.
func readTail(dir string, lines int, w io.Writer) (*logReader, error) {
	files, err := logsOf(dir)
	if err != nil {
		return nil, err
	}
	r := &logReader{dir: dir}
	var text []byte
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		text = append(text, b...)
		r.at = f.from + int64(len(b))
	}
	from := len(text)
	for range lines {
		i := bytes.LastIndexByte(text[:max(from-1, 0)], '\n')
		if from = i + 1; from == 0 {
			break
		}
	}
	_, err = w.Write(text[from:])
	return r, err
}

// more writes what has come since. It says whether anything has.
func (r *logReader) more(w io.Writer) (bool, error) {
	files, err := logsOf(r.dir)
	if err != nil {
		return false, err
	}
	came := false
	for _, f := range files {
		if f.from+f.size <= r.at {
			continue
		}
		r.at = max(r.at, f.from) // what was rotated away is missed
		n, err := r.copy(f, w)
		r.at += n
		came = came || n > 0
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return came, err
		}
	}
	return came, nil
}

func (r *logReader) copy(f logFile, w io.Writer) (int64, error) {
	file, err := os.Open(filepath.Join(r.dir, f.name))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if _, err := file.Seek(r.at-f.from, io.SeekStart); err != nil {
		return 0, err
	}
	return io.Copy(w, file)
}
