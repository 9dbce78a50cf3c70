package build

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress tells of a build as `docker buildx build --progress=plain` does: each step by a number, its output by lines.
type Progress struct {
	mu      sync.Mutex
	out     io.Writer
	last    int
	current int // the step that the last line was of
	begun   bool
}

// NewProgress gives a progress that writes whole lines to out. Errors of out are not looked at.
func NewProgress(out io.Writer) *Progress { return &Progress{out: out} }

// Discard is a progress that nobody reads.
var Discard = NewProgress(io.Discard)

// Step is one step of a build that is under way. Its Write takes the output of what it runs.
type Step struct {
	p      *Progress
	number int
	name   string
	began  time.Time

	mu   sync.Mutex
	rest []byte // of a line that has no end yet
	tail []string
}

// tailLines is how many lines of a step's output its failure shows.
const tailLines = 20

// maxLine bounds a line of output, bytes; longer ones are cut into several.
const maxLine = 64 << 10

func (p *Progress) begin(name string) *Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	s := &Step{p: p, number: p.last, name: name, began: time.Now()}
	p.turn(s)
	return s
}

// turn makes a step the one that lines are of: after those of another one there is its name again.
func (p *Progress) turn(s *Step) {
	if p.current == s.number {
		return
	}
	if p.begun && p.current != 0 {
		fmt.Fprintln(p.out)
	}
	p.current, p.begun = s.number, true
	fmt.Fprintf(p.out, "#%d %s\n", s.number, s.name)
}

func (p *Progress) note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != 0 {
		fmt.Fprintln(p.out)
		p.current = 0
	}
	fmt.Fprintf(p.out, "note: %s\n", text)
}

func (s *Step) line(last bool, format string, args ...any) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.turn(s)
	fmt.Fprintf(s.p.out, "#%d %s\n", s.number, fmt.Sprintf(format, args...))
	if last {
		fmt.Fprintln(s.p.out)
		s.p.current = 0
	}
}

func (s *Step) say(format string, args ...any) { s.line(false, format, args...) }
func (s *Step) cached()                        { s.line(true, "CACHED") }
func (s *Step) canceled()                      { s.line(true, "CANCELED") }
func (s *Step) done()                          { s.line(true, "DONE %.1fs", time.Since(s.began).Seconds()) }
func (s *Step) fail(err error)                 { s.line(true, "ERROR: %v", err) }

// Write implements io.Writer.
func (s *Step) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := append(s.rest, b...)
	for {
		i := bytes.IndexByte(data, '\n')
		switch {
		case i >= 0:
			s.print(bytes.TrimRight(data[:i], "\r"))
			data = data[i+1:]
		case len(data) >= maxLine:
			s.print(data[:maxLine])
			data = data[maxLine:]
		default:
			s.rest = append(s.rest[:0], data...)
			return len(b), nil
		}
	}
}

func (s *Step) print(text []byte) {
	line := fmt.Sprintf("%.3f %s", time.Since(s.began).Seconds(), text)
	s.line(false, "%s", line)
	if s.tail = append(s.tail, line); len(s.tail) > tailLines {
		s.tail = s.tail[1:]
	}
}

// flush prints a last line that has no end, and gives the last lines.
func (s *Step) flush() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rest) > 0 {
		s.print(s.rest)
		s.rest = nil
	}
	return s.tail
}
