package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// What a server and a machine say to one another. A machine opens the connection, for it may be where nobody reaches it, and on
// it the server asks: HTTP/2, of which the machine is the server. What a machine has to ask comes as lines of the answer to one
// request that is open as long as the connection (ask), and each is answered by a request of its own.
//
// Neither side trusts the other further than it must: a machine runs what it is told, and says what it likes of what it was told
// to run, and of nothing else.
const (
	wantedPath = "/wanted"  // PUT: all that is to run there
	runPath    = "/run"     // POST: a hook; it goes on until the end of the request's body
	logsPath   = "/logs"    // POST: what an instance has written
	asksPath   = "/asks"    // POST: what the machine asks, as it comes
	answerPath = "/answer/" // POST, with the number of the ask

	// outcomeTrailer says how what was asked ended, errorHeader that there is no answer, and why. Both are escaped as in queries.
	outcomeTrailer = "Penstock-Outcome"
	errorHeader    = "Penstock-Error"
)

// Bounds of what is said.
const (
	maxWanted   = 64 << 20 // bytes
	maxAsk      = 64 << 10 // bytes of a line: an instance with its reason is the longest
	maxSecrets  = 16 << 20 // bytes
	maxManifest = 4 << 20  // bytes
	maxUnread   = 1 << 20  // bytes of an answer or question that have come and are not read
	maxAsks     = 256      // of a machine at a time
	maxReaders  = 128      // of logs of a machine at a time
	maxEarly    = 10_000   // instances of a machine that it tells of and is not to run
	maxFault    = 4 << 10  // bytes of an error

	// A connection on which nothing came for so long is asked whether it lives, and has so long to answer.
	idleWait = 10 * time.Second
	pingWait = 5 * time.Second
	// leaseWait is how long a machine may be away until what it runs is taken for ill. A server that is started again, or a
	// runner, is back sooner.
	leaseWait = 30 * time.Second
	// sayWait is how long a short question may take, and askWait the longest answer.
	sayWait = 20 * time.Second
	askWait = time.Hour
)

// wants is all that a machine is to run.
type wants struct {
	Version int64    `json:"version"` // grows within a connection
	Wanted  []Wanted `json:"wanted"`
	// From are the addresses from which the server's proxy connects.
	From []netip.Addr `json:"from,omitempty"`
}

// runs asks for a hook.
type runs struct {
	Wanted  Wanted   `json:"wanted"`
	Command []string `json:"command"`
}

// reads asks for a log.
type reads struct {
	Wanted Wanted `json:"wanted"`
	Index  int    `json:"index"`
	Lines  int    `json:"lines"`
	Follow bool   `json:"follow"`
}

// askKind is what a machine asks.
type askKind string

const (
	askSeen     askKind = "seen"     // takes note of Instance; the answer says that it was
	askSecrets  askKind = "secrets"  // of a service: JSON
	askArtifact askKind = "artifact" // of Digest: a tar stream
	askDrained  askKind = "drained"  // whether nothing is under way to Addr: an answer when it is so
	askManifest askKind = "manifest" // of the image Image
	askBlob     askKind = "blob"     // of Digest, of the image Image
	askCancel   askKind = "cancel"   // of the ask ID: its answer is not waited for any more
)

// ask is a question of a machine.
type ask struct {
	ID       int64        `json:"id"`
	Kind     askKind      `json:"kind"`
	Release  cd.ReleaseID `json:"release,omitempty"`
	Service  string       `json:"service,omitempty"`
	Instance *cd.Instance `json:"instance,omitempty"`
	Digest   string       `json:"digest,omitempty"`
	Image    string       `json:"image,omitempty"`
	Addr     string       `json:"addr,omitempty"`
}

// parseAsk reads a line of a machine and checks what can be checked of it by itself.
func parseAsk(line []byte) (ask, error) {
	var a ask
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("not of the form that is agreed on: %w", err)
	}
	if a.ID <= 0 {
		return a, errors.New("a question without a number")
	}
	if a.Kind != askSeen {
		return a, nil
	}
	i := a.Instance
	if i == nil {
		return a, errors.New("told of no instance")
	}
	switch i.State {
	case cd.Starting, cd.Healthy, cd.Ill, cd.Exited, cd.Stopped:
	default:
		return a, fmt.Errorf("told of the state %.20q", i.State)
	}
	if i.Index < 0 || i.Restarts < 0 || !utf8.ValidString(i.Reason) {
		return a, errors.New("told of an instance that can not be")
	}
	i.Reason = clip(i.Reason, maxReason)
	return a, nil
}

// outcome is how what was asked ended.
type outcome struct {
	Error   string             `json:"error,omitempty"`
	Exit    *sandbox.ExitError `json:"exit,omitempty"`
	Missing bool               `json:"missing,omitempty"` // it wraps fs.ErrNotExist
}

func outcomeOf(err error) outcome {
	if err == nil {
		return outcome{}
	}
	o := outcome{Error: clip(err.Error(), maxFault), Missing: errors.Is(err, fs.ErrNotExist)}
	errors.As(err, &o.Exit)
	return o
}

// err is the error that an outcome tells of.
func (o outcome) err() error {
	switch {
	case o.Exit != nil:
		return o.Exit
	case o.Error == "":
		return nil
	case o.Missing:
		return &remoteError{clip(o.Error, maxFault), fs.ErrNotExist}
	}
	return &remoteError{clip(o.Error, maxFault), nil}
}

// remoteError is an error of the other side.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return strings.ToValidUTF8(e.text, "?") }
func (e *remoteError) Unwrap() error { return e.is }

func (o outcome) String() string {
	text, _ := json.Marshal(o) // of texts and numbers
	return url.QueryEscape(string(text))
}

var errNoOutcome = errors.New("the other side does not say how it ended")

// parseOutcome reads the trailer of an answer.
func parseOutcome(text string) (o outcome, err error) {
	if text, err = url.QueryUnescape(text); err != nil || text == "" {
		return o, errNoOutcome
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return o, errNoOutcome
	}
	return o, nil
}

// stream writes an answer as it comes, and how it ended.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func newStream(w http.ResponseWriter) *stream {
	s := &stream{w, http.NewResponseController(w)}
	w.WriteHeader(http.StatusOK)
	_ = s.control.Flush() // who has gone is found out by the next
	return s
}

// Write implements io.Writer.
func (s *stream) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err == nil {
		err = s.control.Flush()
	}
	return n, err
}

func (s *stream) end(err error) {
	s.w.Header().Set(http.TrailerPrefix+outcomeTrailer, outcomeOf(err).String())
}

// readBounded reads a value of at most so many bytes.
func readBounded(r io.Reader, most int64, v any) error {
	text, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	return err
}

// checkAddr says what is wrong with the address at which a machine says that an instance is: it is at the machine's own, at a port
// of keepers, or the proxy could be led anywhere.
func checkAddr(addr string, of netip.Addr) error {
	if addr == "" {
		return nil
	}
	at, err := netip.ParseAddrPort(addr)
	if err != nil || at.Addr() != of || !keepersPort(int(at.Port())) {
		return fmt.Errorf("%.80q is no address of an instance at %s", addr, of)
	}
	return nil
}
