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

// write masks p, whole lines, and sends it.
func (l *jobLog) write(p []byte) {
	if len(p) == 0 {
		return
	}
	found := l.mask.find(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(found) > 0 {
		l.out = cover(l.out[:0], p, found)
		p = l.out
	}
	l.send(p)
}

// Write implements io.Writer, for whole lines.
func (l *jobLog) Write(p []byte) (int, error) {
	l.write(p)
	return len(p), nil
}

// piece sends a part of a line that is masked already.
func (l *jobLog) piece(p []byte) {
	if len(p) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.send(p)
}

// send passes p on as valid UTF-8. The caller holds mu.
func (l *jobLog) send(p []byte) {
	if !utf8.Valid(p) {
		p = validUTF8(p)
	}
	l.offset += int64(len(p))
	_ = l.rep.Append(l.ctx, p) // a log that can not be delivered ends the job through its lease
}

// validUTF8 puts U+FFFD in the place of each byte that is of no character.
func validUTF8(p []byte) []byte {
	out := make([]byte, 0, len(p)+len(p)/8)
	for len(p) > 0 {
		r, n := utf8.DecodeRune(p)
		out = utf8.AppendRune(out, r)
		p = p[n:]
	}
	return out
}

// cutCharacter is how many bytes at the end of p are the beginning of a character.
func cutCharacter(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if tail := p[len(p)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
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
// big pieces: a line costs nothing of its own unless a matcher watches. A line ends with LF, CR LF or CR, as the
// runner reads it, and with LF in the log.
type lineReader struct {
	log *jobLog
	// look is asked for every line when watching says so, else only for those that may be a command. What it gives, if
	// anything, is called when all lines before are logged, and gives what is logged instead of the line.
	look     func(line string) func() []byte
	watching func() bool

	mu     sync.Mutex
	rest   []byte // the beginning of a line
	plain  []byte // reused: output with its CRs turned
	out    []byte // reused
	cr     bool   // the last byte was a CR
	long   bool   // rest is the middle of a line longer than maxLine
	masked maskedLine
	closed bool
}

// Write takes output as it comes. What comes after close, from a process that outlives its step, is dropped.
func (r *lineReader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	if r.closed || n == 0 {
		return n, nil
	}
	p = r.lineFeeds(p)
	if len(r.rest) > 0 || r.long {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			r.hold(p)
			return n, nil
		}
		r.rest = append(r.rest, p[:end]...)
		r.lines(r.rest)
		r.rest = r.rest[:0]
		p = p[end:]
	}
	end := bytes.LastIndexByte(p, '\n') + 1
	r.lines(p[:end])
	r.hold(p[end:])
	return n, nil
}

// lineFeeds turns CR LF and CR into LF, also where they are cut.
func (r *lineReader) lineFeeds(p []byte) []byte {
	if r.cr && p[0] == '\n' {
		p = p[1:]
	}
	r.cr = false
	if len(p) == 0 || bytes.IndexByte(p, '\r') < 0 {
		return p
	}
	r.cr = p[len(p)-1] == '\r'
	r.plain = r.plain[:0]
	for {
		i := bytes.IndexByte(p, '\r')
		if i < 0 {
			r.plain = append(r.plain, p...)
			return r.plain
		}
		r.plain = append(append(r.plain, p[:i]...), '\n')
		if p = p[i+1:]; len(p) > 0 && p[0] == '\n' {
			p = p[1:]
		}
	}
}

// hold keeps the beginning of a line, and passes on what it can of one that does not end.
func (r *lineReader) hold(p []byte) {
	r.rest = append(r.rest, p...)
	if len(r.rest) < maxLine {
		return
	}
	var left int
	r.out, left = r.masked.take(r.log.mask, r.out[:0], r.rest, false)
	r.log.piece(r.out)
	r.rest = append(r.rest[:0], r.rest[len(r.rest)-left:]...)
	r.long = true
}

// close takes what is left as a last line.
func (r *lineReader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed && (len(r.rest) > 0 || r.long) {
		r.lines(append(r.rest, '\n'))
	}
	r.rest, r.plain, r.out, r.closed = nil, nil, nil, true
}

var (
	commandMark    = []byte("::")
	commandMarkOld = []byte("##[")
)

// lines takes whole lines.
func (r *lineReader) lines(p []byte) {
	if r.long {
		end := bytes.IndexByte(p, '\n') + 1
		r.out, _ = r.masked.take(r.log.mask, r.out[:0], p[:end], true)
		r.log.piece(r.out)
		p, r.long, r.masked = p[end:], false, maskedLine{}
	}
	from := 0 // what is not yet written begins here
	marks := marks{p: p}
	for at := 0; at < len(p); {
		watching := r.watching()
		if !watching {
			next := marks.next(at)
			if next < 0 {
				break
			}
			at += bytes.LastIndexByte(p[at:next], '\n') + 1
		}
		end := at + bytes.IndexByte(p[at:], '\n') + 1
		if line := p[at : end-1]; watching || mayCommand(line) {
			if do := r.look(string(line)); do != nil {
				r.log.write(p[from:at])
				r.log.write(do())
				from = end
			}
		}
		at = end
	}
	r.log.write(p[from:])
}

// mayCommand is a cheap look before a line is parsed.
func mayCommand(line []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(line), commandMark) || bytes.Contains(line, commandMarkOld)
}

// marks finds where commands may begin, each byte looked at once for each mark.
type marks struct {
	p        []byte
	new, old int // where the next ones are, if they are at or behind the place asked for; len(p) for none
}

// next is the place of the first mark at or behind at, negative if there is none.
func (m *marks) next(at int) int {
	find := func(known int, mark []byte) int {
		if known > at || known == at && at > 0 {
			return known
		}
		if i := bytes.Index(m.p[at:], mark); i >= 0 {
			return at + i
		}
		return len(m.p)
	}
	m.new, m.old = find(m.new, commandMark), find(m.old, commandMarkOld)
	if first := min(m.new, m.old); first < len(m.p) {
		return first
	}
	return -1
}
