package deploy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/image"
)

// Machine has a target of this machine do what a server elsewhere wants (see Fleet). It is what the target is told of its
// surroundings, too: whatever it asks is asked of the server, and while there is no connection that waits.
//
//	m := NewMachine(dir)
//	host, err := NewHost(ctx, HostOptions{Options: m.Options(), Fetch: m.Fetch, ...})
//	err = m.Serve(ctx, host, conn) // again and again
type Machine struct {
	dir string // for files while they come

	wanting sync.Mutex // while something is wanted of the target: one connection at a time

	mu      sync.Mutex
	session *machineSession // nil while there is none
	news    chan struct{}   // closed when session changes
	asked   int64           // numbers the questions
	told    map[instanceID]cd.Instance
}

// NewMachine makes one that keeps files in a directory while they come.
func NewMachine(dir string) (*Machine, error) {
	if err := os.RemoveAll(dir); err != nil { // of one that was killed
		return nil, err
	}
	return &Machine{dir: dir, news: make(chan struct{}), told: map[instanceID]cd.Instance{}}, os.MkdirAll(dir, 0o700)
}

// Options are what a target is told.
func (m *Machine) Options() Options {
	return Options{Seen: m.seen, Secrets: m.secrets, Artifact: m.artifact, Drained: m.drained}
}

// machineSession is one connection to the server.
type machineSession struct {
	m      *Machine
	ctx    context.Context
	end    context.CancelFunc
	target Target
	peer   netip.Addr

	lines chan []byte // questions

	version int64 // of what is wanted; Machine.wanting guards it
	ended   bool  // so it does this

	mu      sync.Mutex
	asking  bool // the server takes questions
	pending map[int64]chan *given
}

// given is an answer of the server. Whoever has it closes done when it is read.
type given struct {
	err  error
	body io.Reader
	done chan struct{}
}

// errAway is why a question has no answer.
var errAway = errors.New("the connection to the server has ended")

// Serve serves the server at the other end of a connection that this side has opened, until it ends or ctx does. There is one
// at a time.
func (m *Machine) Serve(ctx context.Context, target Target, conn net.Conn) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	s := &machineSession{m: m, ctx: ctx, end: end, target: target, lines: make(chan []byte), pending: map[int64]chan *given{}}
	if at, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		s.peer = at.Addr().Unmap()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+wantedPath, s.wanted)
	mux.HandleFunc("POST "+runPath, s.run)
	mux.HandleFunc("POST "+logsPath, s.logs)
	mux.HandleFunc("POST "+asksPath, s.asks)
	mux.HandleFunc("POST "+answerPath+"{id}", s.answer)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = serveConn(ctx, conn, mux)
	s.close()
	return errAway
}

// close ends a session: what it is asked to want from now on counts no more.
func (s *machineSession) close() {
	m := s.m
	m.wanting.Lock()
	s.ended = true
	m.wanting.Unlock()
	s.end()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session == s {
		m.session = nil
		m.ring()
	}
}

// ring wakes who waits for another session. The caller holds mu.
func (m *Machine) ring() {
	close(m.news)
	m.news = make(chan struct{})
}

func refuse(w http.ResponseWriter, err error) {
	http.Error(w, clip(err.Error(), maxFault), http.StatusBadRequest)
}

// wanted takes what is wanted.
func (s *machineSession) wanted(w http.ResponseWriter, r *http.Request) {
	var in wants
	if err := readBounded(r.Body, maxWanted, &in); err != nil {
		refuse(w, err)
		return
	}
	s.m.wanting.Lock()
	defer s.m.wanting.Unlock()
	if s.ended || in.Version <= s.version {
		http.Error(w, "later wishes are known", http.StatusConflict)
		return
	}
	if t, ok := s.target.(interface{ Admit([]netip.Addr) error }); ok {
		from := in.From
		if s.peer.IsValid() && !slices.Contains(from, s.peer) {
			from = append(from, s.peer)
		}
		if err := t.Admit(from); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	s.version = in.Version
	s.target.Ensure(in.Wanted)
}

// run runs a hook as long as the request's body goes on.
func (s *machineSession) run(w http.ResponseWriter, r *http.Request) {
	var in runs
	dec := json.NewDecoder(io.LimitReader(r.Body, maxWanted))
	if err := dec.Decode(&in); err != nil {
		refuse(w, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() { // ends with the request
		_, _ = io.Copy(io.Discard, r.Body)
		cancel()
	}()
	out := newStream(w)
	out.end(s.target.Run(ctx, in.Wanted, in.Command, out))
}

func (s *machineSession) logs(w http.ResponseWriter, r *http.Request) {
	var in reads
	if err := readBounded(r.Body, maxWanted, &in); err != nil {
		refuse(w, err)
		return
	}
	out := newStream(w)
	out.end(s.target.Logs(r.Context(), in.Wanted, in.Index, in.Lines, in.Follow, out))
}

// asks passes questions on to the server from now on: first what it has to hear again, for it may be another one, or may have
// given the machine up.
func (s *machineSession) asks(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	again := s.asking
	s.asking = true
	s.mu.Unlock()
	if again {
		refuse(w, errors.New("questions are asked already"))
		return
	}
	defer s.end()
	out := newStream(w)
	var telling sync.WaitGroup
	telling.Go(s.begin)
	defer telling.Wait()
	for {
		select {
		case line := <-s.lines:
			if _, err := out.Write(line); err != nil {
				s.end()
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// begin tells the server everything again, and makes the session the one that counts.
func (s *machineSession) begin() {
	m := s.m
	m.mu.Lock()
	told := maps.Clone(m.told)
	m.mu.Unlock()
	for _, id := range slices.SortedFunc(maps.Keys(told), compareIDs) {
		if s.tell(s.ctx, id, told[id]) != nil {
			s.end()
			return
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.ctx.Err() == nil { // else its close has been, and does not come again
		m.session = s
		m.ring()
	}
}

func compareIDs(a, b instanceID) int {
	return cmp.Or(cmp.Compare(a.release, b.release), cmp.Compare(a.service, b.service), cmp.Compare(a.index, b.index))
}

// answer takes an answer of the server.
func (s *machineSession) answer(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		refuse(w, err)
		return
	}
	s.mu.Lock()
	waiting := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if waiting == nil { // nobody waits any more
		w.WriteHeader(http.StatusGone)
		return
	}
	g := &given{body: r.Body, done: make(chan struct{})}
	if said := r.Header.Get(errorHeader); said != "" {
		text, err := url.QueryUnescape(said)
		if err != nil {
			text = "it is not understood why"
		}
		g.err = &remoteError{clip(text, maxFault), nil}
	}
	waiting <- g
	select {
	case <-g.done:
	case <-r.Context().Done():
	}
}

// put asks a question on a session. Whoever gets an answer closes it.
func (s *machineSession) put(ctx context.Context, a ask) (*answerBody, error) {
	waiting := make(chan *given, 1)
	s.m.mu.Lock()
	s.m.asked++
	a.ID = s.m.asked
	s.m.mu.Unlock()
	line, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.pending[a.ID] = waiting
	s.mu.Unlock()
	if err := s.say(line); err != nil {
		return nil, err
	}
	var g *given
	select {
	case g = <-waiting:
	case <-s.ctx.Done():
		return nil, errAway
	case <-ctx.Done():
		s.giveUp(a.ID)
		return nil, context.Cause(ctx)
	}
	if g.err != nil {
		close(g.done)
		return nil, g.err
	}
	return &answerBody{s: s, g: g, stop: context.AfterFunc(ctx, func() { s.giveUp(a.ID) })}, nil
}

// giveUp tells the server that nobody waits for an answer any more.
func (s *machineSession) giveUp(id int64) {
	line, _ := json.Marshal(ask{ID: id, Kind: askCancel}) // of a number and a text
	s.mu.Lock()
	delete(s.pending, id)
	s.mu.Unlock()
	_ = s.say(line) // the server finds out by itself that the connection has ended
}

// say sends a line.
func (s *machineSession) say(line []byte) error {
	select {
	case s.lines <- append(line, '\n'):
		return nil
	case <-s.ctx.Done():
		return errAway
	}
}

// answerBody is what an answer has to read.
type answerBody struct {
	s      *machineSession
	g      *given
	stop   func() bool
	once   sync.Once
	broken bool // it has not come to its end
}

// Read implements io.Reader.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.g.body.Read(p)
	b.broken = b.broken || err != nil && err != io.EOF
	return n, err
}

// Close implements io.Closer.
func (b *answerBody) Close() error {
	b.once.Do(func() { b.stop(); close(b.g.done) })
	return nil
}

// current waits for a session.
func (m *Machine) current(ctx context.Context) (*machineSession, error) {
	for {
		m.mu.Lock()
		s, news := m.session, m.news
		m.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// maxBroken is how often an answer may break off while its connection lasts.
const maxBroken = 3

// insist asks a question, and reads the answer, until a connection lasts for all of it.
func (m *Machine) insist(ctx context.Context, a ask, read func(io.Reader) error) error {
	var on *machineSession
	for broken := 0; ; {
		s, err := m.current(ctx)
		if err != nil {
			return err
		}
		if s != on {
			on, broken = s, 0
		}
		body, err := s.put(ctx, a)
		if err == nil {
			err = read(body)
			body.Close()
		}
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case s.ctx.Err() != nil || errors.Is(err, errAway):
			err = m.next(ctx, s)
		case body != nil && body.broken && broken < maxBroken: // that the connection has ended may be known a little later
			broken++
			err = pause(ctx, firstTell<<broken)
		}
		if err != nil {
			return err
		}
	}
}

// next waits until a session is not the one that counts any more.
func (m *Machine) next(ctx context.Context, s *machineSession) error {
	for {
		m.mu.Lock()
		over, news := m.session != s, m.news
		m.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// seen tells the server of an instance.
func (m *Machine) seen(ctx context.Context, release cd.ReleaseID, o cd.Observed) error {
	id := instanceID{release, o.Service, o.Instance.Index}
	m.mu.Lock()
	m.told[id] = o.Instance // before it is told: what begins meanwhile tells nothing that is older
	m.mu.Unlock()
	s, err := m.current(ctx)
	if err == nil {
		err = s.tell(ctx, id, o.Instance)
	}
	if err != nil || o.Instance.State != cd.Stopped {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.told, id)
	return nil
}

func (s *machineSession) tell(ctx context.Context, id instanceID, now cd.Instance) error {
	ctx, cancel := context.WithTimeoutCause(ctx, sayWait, errors.New("the server gives no answer"))
	defer cancel()
	body, err := s.put(ctx, ask{Kind: askSeen, Release: id.release, Service: id.service, Instance: &now})
	if err != nil {
		return err
	}
	return body.Close()
}

func (m *Machine) secrets(ctx context.Context, release cd.ReleaseID, service string) (values map[string]string, err error) {
	err = m.insist(ctx, ask{Kind: askSecrets, Release: release, Service: service}, func(r io.Reader) error {
		return readBounded(r, maxSecrets, &values)
	})
	return values, err
}

func (m *Machine) drained(ctx context.Context, addr string) error {
	return m.insist(ctx, ask{Kind: askDrained, Addr: addr}, func(io.Reader) error { return nil })
}

// errOther says that something else came than what was asked for.
var errOther = errors.New("what came is something else: its digest is another one")

// artifact gets an artifact as a file, whole and verified.
func (m *Machine) artifact(ctx context.Context, digest string) (io.ReadCloser, error) {
	f, err := os.CreateTemp(m.dir, "artifact-")
	if err != nil {
		return nil, err
	}
	came := &passing{f}
	err = m.insist(ctx, ask{Kind: askArtifact, Digest: digest}, func(r io.Reader) error {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := f.Truncate(0); err != nil {
			return err
		}
		return verified(f, r, sha256.New(), digest)
	})
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, came.Close())
	}
	return came, nil
}

// verified copies what has a digest.
func verified(to io.Writer, from io.Reader, h hash.Hash, digest string) error {
	n, err := io.Copy(io.MultiWriter(to, h), io.LimitReader(from, maxArtifactBytes+1))
	switch {
	case err != nil:
		return err
	case n > maxArtifactBytes:
		return errArtifactBytes
	case hex.EncodeToString(h.Sum(nil)) != digest:
		return errOther
	}
	return nil
}

// passing is a file that is removed when it is closed.
type passing struct{ *os.File }

func (f *passing) Close() error { return errors.Join(f.File.Close(), os.Remove(f.Name())) }

// Fetch gets an image that the server has into a store, layer by layer: those that are here do not come again. ref has a digest, of an
// image: one for several platforms has to come from its registry.
func (m *Machine) Fetch(ctx context.Context, images *image.Store, ref string) error {
	repository, digest, ok := strings.Cut(ref, "@")
	if !ok {
		return fmt.Errorf("%s has no digest", ref)
	}
	var manifest bytes.Buffer
	err := m.insist(ctx, ask{Kind: askManifest, Image: ref}, func(r io.Reader) error {
		manifest.Reset()
		_, err := io.Copy(&manifest, io.LimitReader(r, maxManifest+1))
		return err
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(manifest.Bytes())
	if "sha256:"+hex.EncodeToString(sum[:]) != digest {
		return errOther
	}
	needs, err := image.Needs(manifest.Bytes())
	if err != nil {
		return err
	}
	for _, digest := range needs {
		if images.HasBlob(digest) {
			continue
		}
		err := m.insist(ctx, ask{Kind: askBlob, Image: ref, Digest: digest}, func(r io.Reader) error { return images.PutBlob(ctx, digest, r) })
		if err != nil {
			return err
		}
	}
	_, err = images.PutManifest(ctx, repository, digest, "", manifest.Bytes())
	return err
}
