package forge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	// maxChanges is how many refs one push may change. GitHub makes no events for more than 5,000 branches.
	maxChanges = 5000
	// maxCommands bounds what a push says before its objects, bytes: git keeps all of it in memory.
	maxCommands = 4 << 20
	// maxOptions bounds how many options of a push are kept.
	maxOptions = 100
)

var (
	errCommands = errors.New("a push that changes too many refs: push them in parts")
	errProtocol = errors.New("not what git sends to push")
)

// commands are the beginning of a push: what it wants to change, before its objects.
type commands struct {
	raw     []byte // as it came, to hand on
	changes []Change
	options []string
}

// readCommands reads the beginning of a push and nothing behind it. Its lines have their length in four hexadecimal
// digits before them and end with a line of length zero: `OLD NEW REF`, the first with what the client understands
// behind a zero byte, and `shallow SHA`; then, if the client says so, as many options. A client that only tries whether
// it may push sends no command at all. (git's documentation, gitprotocol-pack.)
//
// What git would read otherwise than we do is refused, so that no ref is changed but those that were asked about: signed
// pushes, which we do not offer, and refs whose names are none, with line feeds in them.
func readCommands(r io.Reader, limit int) (*commands, error) {
	c := &commands{}
	lines := pktLines{r: r, limit: limit}
	withOptions := false
	err := lines.section(func(line string) error {
		line, features, _ := strings.Cut(line, "\x00")
		if slices.Contains(strings.Fields(features), "push-options") {
			withOptions = true
		}
		line = strings.TrimSuffix(line, "\n")
		if sha, ok := strings.CutPrefix(line, "shallow "); ok && isSHA(sha) {
			return nil
		}
		if len(line) < 82 || line[40] != ' ' || line[81] != ' ' || !isSHA(line[:40]) || !isSHA(line[41:81]) {
			return fmt.Errorf("%w: %.100q", errProtocol, line)
		}
		change := Change{Old: line[:40], New: line[41:81], Ref: line[82:]}
		if strings.ContainsFunc(change.Ref, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("%w: a ref called %.100q", errProtocol, change.Ref)
		}
		c.changes = append(c.changes, change)
		return nil
	})
	if err == nil && withOptions {
		err = lines.section(func(line string) error {
			if len(c.options) < maxOptions {
				c.options = append(c.options, strings.ToValidUTF8(strings.TrimSuffix(line, "\n"), "?"))
			}
			return nil
		})
	}
	c.raw = lines.raw.Bytes()
	return c, err
}

// pktLines reads git's lines and keeps them as they come.
type pktLines struct {
	r     io.Reader
	limit int // of all that is kept, bytes
	raw   bytes.Buffer
}

// section reads lines up to the one of length zero. The end of everything before the first line is no error.
func (p *pktLines) section(each func(line string) error) error {
	for {
		var head [4]byte
		if _, err := io.ReadFull(p.r, head[:]); errors.Is(err, io.EOF) && p.raw.Len() == 0 {
			return nil
		} else if err != nil {
			return errors.Join(errProtocol, err)
		}
		n, ok := pktLength(head)
		if !ok {
			return errProtocol
		}
		p.raw.Write(head[:])
		if n == 0 {
			return nil
		}
		if p.raw.Len()+n > p.limit {
			return errCommands
		}
		begin := p.raw.Len()
		if _, err := io.CopyN(&p.raw, p.r, int64(n-4)); err != nil {
			return errors.Join(errProtocol, err)
		}
		if err := each(string(p.raw.Bytes()[begin:])); err != nil {
			return err
		}
	}
}

// pktLength reads a line's length, its own four digits counted. Lengths of one to three have no line.
func pktLength(head [4]byte) (n int, ok bool) {
	for _, c := range head {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | int(c-'a'+10)
		case c >= 'A' && c <= 'F':
			n = n<<4 | int(c-'A'+10)
		default:
			return 0, false
		}
	}
	return n, n == 0 || n >= 4
}
