package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"

	"github.com/penstock-ci/penstock/internal/image"
)

const (
	// A terminal shows a transfer this often, a pipe gets a line this often.
	transferFrame = 100 * time.Millisecond
	transferLine  = 5 * time.Second
	transferBar   = 24
)

// transfer shows how far a pull or push is: on a terminal by one line that changes, in a pipe by lines now and then.
type transfer struct {
	out   io.Writer
	title string
	live  bool

	mu    sync.Mutex
	began time.Time
	last  time.Time
	now   image.Progress
}

func newTransfer(out io.Writer, title string) *transfer {
	began := time.Now()
	return &transfer{out: out, title: safe(title), live: isTerminal(out) && os.Getenv("TERM") != "dumb", began: began, last: began}
}

// tell takes in where the transfer stands.
func (t *transfer) tell(p image.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = p
	every := transferLine
	if t.live {
		every = transferFrame
	}
	if time.Since(t.last) < every {
		return
	}
	t.last = time.Now()
	if t.live {
		fmt.Fprintf(t.out, "\r%s\x1b[K", t.line())
	} else {
		fmt.Fprintln(t.out, t.line())
	}
}

func (t *transfer) line() string {
	p := t.now
	text := t.title + ": "
	if p.Total > 0 && t.live {
		full := int(min(p.Done, p.Total) * transferBar / p.Total)
		text += "[" + strings.Repeat("=", full) + strings.Repeat(" ", transferBar-full) + "] "
	}
	text += fmt.Sprintf("%s of %s", units.HumanSize(float64(p.Done)), units.HumanSize(float64(p.Total)))
	if p.Layers > 0 {
		text += fmt.Sprintf(", %d of %d layers", p.LayersDone, p.Layers)
	}
	if p.Unpacking {
		text += ", unpacking"
	}
	return text
}

// end takes the line that changes away and says how it went; of an error the command tells.
func (t *transfer) end(err error, how string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live {
		fmt.Fprint(t.out, "\r\x1b[K")
	}
	if err == nil {
		fmt.Fprintf(t.out, "%s: %s\n", t.title, how)
	}
}

// fetched says how a pull went.
func (t *transfer) fetched() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now.Fetched == 0 {
		return "all of it is here already"
	}
	return fmt.Sprintf("%s in %s", units.HumanSize(float64(t.now.Fetched)), time.Since(t.began).Round(10*time.Millisecond))
}
