package job

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxLine is how much of a line without an end is held back to read it whole, bytes. A longer one is passed on in
// pieces, masked, and read as no command.
const maxLine = 1 << 20

// jobLog is a job's log: what is written to it is masked and goes to the reporter in order.
type jobLog struct {
	ctx    context.Context
	rep    Reporter
	mask   *masker
	mu     sync.Mutex
	offset int64
	out    []byte // reused
}

// write masks p, which ends at a line's end unless a line is longer than maxLine, and sends it.
func (l *jobLog) write(p []byte) {
	if len(p) == 0 {
		return
	}
	if !utf8.Valid(p) {
		p = bytes.ToValidUTF8(p, []byte("\uFFFD"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = l.mask.bytes(l.out[:0], p)
	l.offset += int64(len(l.out))
	_ = l.rep.Append(l.ctx, l.out) // a log that can not be delivered ends the job through its lease
}

// line writes one line of the runner's own.
func (l *jobLog) line(format string, args ...any) {
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	l.write([]byte(strings.TrimSuffix(text, "\n") + "\n"))
}

// at is where the next byte goes.
func (l *jobLog) at() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.offset
}

// lineReader cuts a process's output into lines, looks at those that may mean something, and passes the rest on in
// big pieces: a line costs nothing of its own unless a matcher watches.
type lineReader struct {
	log *jobLog
	// each is asked for every line when watching says so, else only for those that hold a command's beginning. It
	// gives what is to be logged instead of the line; nil for nothing.
	each     func(line string) (replacement []byte, replaced bool)
	watching func() bool

	mu   sync.Mutex
	rest []byte // the beginning of a line
	long bool   // rest is the middle of a line longer than maxLine
}

// Write takes output as it comes.
func (r *lineReader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	if len(r.rest) > 0 {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			r.rest = append(r.rest, p...)
			r.shorten()
			return n, nil
		}
		r.rest = append(r.rest, p[:end]...)
		r.lines(r.rest)
		r.rest = r.rest[:0]
		p = p[end:]
	}
	end := bytes.LastIndexByte(p, '\n') + 1
	r.lines(p[:end])
	r.rest = append(r.rest, p[end:]...)
	r.shorten()
	return n, nil
}

// shorten passes the beginning of an endless line on, but for what may be the beginning of a secret.
func (r *lineReader) shorten() {
	if len(r.rest) < maxLine {
		return
	}
	keep := r.log.mask.held(r.rest)
	// A character that is cut would be taken for broken.
	for keep < len(r.rest) && keep < utf8.UTFMax && !utf8.RuneStart(r.rest[len(r.rest)-keep-1+min(1, keep)]) {
		keep++
	}
	r.log.write(r.rest[:len(r.rest)-keep])
	r.rest = append(r.rest[:0], r.rest[len(r.rest)-keep:]...)
	r.long = true
}

// close takes what is left as a last line.
func (r *lineReader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rest) > 0 || r.long {
		r.lines(append(r.rest, '\n'))
	}
	r.rest = nil
}

var (
	commandMark    = []byte("::")
	commandMarkOld = []byte("##[")
)

// lines takes whole lines.
func (r *lineReader) lines(p []byte) {
	if r.long {
		end := bytes.IndexByte(p, '\n') + 1
		r.log.write(p[:end])
		p, r.long = p[end:], false
	}
	from := 0 // what is not yet written begins here
	for at := 0; at < len(p); {
		if !r.watching() {
			next := nextMark(p[at:])
			if next < 0 {
				break
			}
			at += bytes.LastIndexByte(p[at:at+next], '\n') + 1
		}
		end := at + bytes.IndexByte(p[at:], '\n') + 1
		text := strings.TrimRight(string(p[at:end]), "\r\n")
		if replacement, replaced := r.each(text); replaced {
			r.log.write(p[from:at])
			r.log.write(replacement)
			from = end
		}
		at = end
	}
	r.log.write(p[from:])
}

// nextMark is where the next line that may be a command has its mark, negative if none has.
func nextMark(p []byte) int {
	a, b := bytes.Index(p, commandMark), bytes.Index(p, commandMarkOld)
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}
