package build

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress tells of a build as `docker buildx build --progress=plain` does: #5 [2/4] RUN make.
type Progress struct {
	mu   sync.Mutex
	out  io.Writer
	last int
}

// NewProgress gives a progress that writes whole lines to out.
func NewProgress(out io.Writer) *Progress { return &Progress{out: out} }

// Step is one step of a build that is under way. Its Write takes the output of what it runs.
type Step struct {
	p      *Progress
	number int
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
	s := &Step{p: p, number: p.last, began: time.Now()}
	fmt.Fprintf(p.out, "#%d %s\n", s.number, name)
	return s
}

func (s *Step) line(format string, args ...any) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	fmt.Fprintf(s.p.out, "#%d %s\n", s.number, fmt.Sprintf(format, args...))
}

func (s *Step) say(format string, args ...any) { s.line(format, args...) }
func (s *Step) cached()                        { s.line("CACHED") }
func (s *Step) done()                          { s.line("DONE %.1fs", time.Since(s.began).Seconds()) }
func (s *Step) fail(err error)                 { s.line("ERROR: %v", err) }

// Write implements io.Writer.
func (s *Step) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = append(s.rest, b...)
	for {
		i := bytes.IndexByte(s.rest, '\n')
		if i < 0 && len(s.rest) < maxLine {
			return len(b), nil
		}
		if i < 0 {
			i = maxLine - 1
		}
		s.print(string(bytes.TrimRight(s.rest[:i], "\r")))
		s.rest = append(s.rest[:0], s.rest[i+1:]...)
	}
}

func (s *Step) print(text string) {
	s.line("%.3f %s", time.Since(s.began).Seconds(), text)
	if s.tail = append(s.tail, text); len(s.tail) > tailLines {
		s.tail = s.tail[1:]
	}
}

// flush prints a last line that has no end.
func (s *Step) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rest) > 0 {
		s.print(string(s.rest))
		s.rest = nil
	}
}
