package deploy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-ci/penstock/internal/image"
)

// session is a connection of a machine, of which this side is the HTTP client.
type session struct {
	r     *remote
	offer Offer
	conn  *hearing
	h2    *http.ClientConn
	ctx   context.Context
	end   context.CancelCauseFunc

	readers chan struct{} // those of logs

	mu    sync.Mutex
	under map[int64]context.CancelFunc // asks under way
}

// hearing is a connection that knows when something came last, by the clock that only goes forward.
type hearing struct {
	net.Conn
	began time.Time
	last  atomic.Int64 // nanoseconds after began
}

func (c *hearing) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(int64(time.Since(c.began)))
	}
	return n, err
}

func (c *hearing) heard() time.Time { return c.began.Add(time.Duration(c.last.Load())) }

var errStopped = errors.New("the server is stopped")

// Serve serves a machine that offers to run instances over a connection that it has opened, until the connection or ctx ends, and
// gives why it did. Who the machine is has been checked.
func (f *Fleet) Serve(ctx context.Context, offer Offer, conn net.Conn) error {
	defer conn.Close()
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return errStopped
	}
	f.working.Add(1)
	f.mu.Unlock()
	defer f.working.Done()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer context.AfterFunc(f.ctx, func() { end(errStopped) })()
	s := &session{offer: offer, conn: &hearing{Conn: conn, began: time.Now()}, ctx: ctx, end: end, readers: make(chan struct{}, maxReaders), under: map[int64]context.CancelFunc{}}
	var err error
	if s.h2, err = clientOf(ctx, s.conn); err != nil {
		return err
	}
	defer s.h2.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s.r = f.machine(offer.Name)
	s.r.begin(s)
	defer s.r.over(s)
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(s.sendWanted)
	err = s.listen(&working)
	end(err)
	return context.Cause(ctx)
}

// do asks the machine.
func (s *session) do(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://machine"+path, body)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	resp, err := s.h2.RoundTrip(req)
	if err != nil {
		return nil, s.cut(err)
	}
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxFault))
		resp.Body.Close()
		return nil, &refusal{resp.StatusCode, strings.TrimSpace(string(text))}
	}
	return resp, nil
}

// refusal is an answer of a machine that it will not.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return fmt.Sprintf("it answers %d: %s", e.status, e.text) }

// cut is an error of the connection in words for people.
func (s *session) cut(err error) error {
	return fmt.Errorf("the connection to machine %s has ended: %w", s.r.name, err)
}

// sendWanted has the machine told what is wanted, whenever that changes.
func (s *session) sendWanted() {
	var sent int64
	var version int64
	for s.ctx.Err() == nil {
		r := s.r
		r.mu.Lock()
		list, now, changed := r.wanted, r.version, r.changed
		r.mu.Unlock()
		if now == sent { // also before the first
			select {
			case <-changed:
			case <-s.ctx.Done():
			}
			continue
		}
		version++
		err := s.send(wants{Version: version, Wanted: list, From: sourceTo(s.offer.Address)})
		if err == nil {
			sent = now
			continue
		}
		if s.ctx.Err() == nil {
			r.f.o.Log("tell machine %s what is wanted: %v", r.name, err)
		}
		_ = pause(s.ctx, firstPause)
	}
}

func (s *session) send(w wants) error {
	text, err := json.Marshal(w)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, sayWait)
	defer cancel()
	resp, err := s.do(ctx, http.MethodPut, wantedPath, nil, bytes.NewReader(text))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// sourceTo are the addresses from which this machine connects to another one.
func sourceTo(to netip.Addr) []netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, lowestPort))) // sends nothing
	if err != nil {
		return nil
	}
	defer c.Close()
	return []netip.Addr{c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()}
}

// run has a hook run. When ctx ends the machine is told, and has as long as the hook may take to end.
func (s *session) run(ctx context.Context, w Wanted, command []string, output io.Writer) error {
	text, err := json.Marshal(runs{w, command})
	if err != nil {
		return err
	}
	asking, cancel := context.WithCancel(s.ctx)
	defer cancel()
	in, out := io.Pipe()
	defer out.Close()
	defer context.AfterFunc(ctx, func() {
		out.Close()
		if pause(asking, grace(w.Revision)+haltWait) == nil {
			cancel()
		}
	})()
	go func() { _, _ = out.Write(text) }() // ends with the pipe
	resp, err := s.do(asking, http.MethodPost, runPath, nil, in)
	if err == nil {
		err = s.copyAll(output, resp)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (s *session) logs(ctx context.Context, w Wanted, index, lines int, follow bool, out io.Writer) error {
	select {
	case s.readers <- struct{}{}:
		defer func() { <-s.readers }()
	default:
		return fmt.Errorf("%d readers follow logs of machine %s: no more can", maxReaders, s.r.name)
	}
	text, err := json.Marshal(reads{w, index, lines, follow})
	if err != nil {
		return err
	}
	resp, err := s.do(ctx, http.MethodPost, logsPath, nil, bytes.NewReader(text))
	if err == nil {
		err = s.copyAll(out, resp)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// copyAll copies an answer as it comes, and gives how it ended.
func (s *session) copyAll(out io.Writer, resp *http.Response) error {
	defer resp.Body.Close()
	piece := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(piece)
		if n > 0 {
			if _, err := out.Write(piece[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return s.cut(err)
		}
	}
	o, err := parseOutcome(resp.Trailer.Get(outcomeTrailer))
	if err != nil {
		return err
	}
	return o.err()
}

// listen hears what the machine asks until the connection ends, and answers it: what it tells in order, all else at the same time.
func (s *session) listen(working *sync.WaitGroup) error {
	resp, err := s.do(s.ctx, http.MethodPost, asksPath, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxAsk)
	slots := make(chan struct{}, maxAsks)
	for lines.Scan() {
		a, err := parseAsk(lines.Bytes())
		if err != nil {
			return fmt.Errorf("machine %s: %w", s.r.name, err)
		}
		if a.Kind == askCancel {
			s.mu.Lock()
			if cancel := s.under[a.ID]; cancel != nil {
				cancel()
			}
			s.mu.Unlock()
			continue
		}
		told := error(nil)
		if a.Kind == askSeen {
			told = s.r.seen(s, instanceID{a.Release, a.Service, a.Instance.Index}, *a.Instance)
		}
		select {
		case slots <- struct{}{}:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
		ctx, cancel := context.WithTimeout(s.ctx, askWait)
		s.mu.Lock()
		s.under[a.ID] = cancel
		s.mu.Unlock()
		working.Go(func() {
			defer func() {
				cancel()
				s.mu.Lock()
				delete(s.under, a.ID)
				s.mu.Unlock()
				<-slots
			}()
			if a.Kind == askSeen {
				s.answer(ctx, a, nil, told)
				return
			}
			body, err := s.find(ctx, a)
			if body != nil {
				defer body.Close()
			}
			if ctx.Err() == nil {
				s.answer(ctx, a, body, err)
			}
		})
	}
	if err := lines.Err(); err != nil {
		return s.cut(err)
	}
	return s.cut(io.EOF)
}

// answer gives an answer.
func (s *session) answer(ctx context.Context, a ask, body io.Reader, err error) {
	header := http.Header{}
	if err != nil {
		header.Set(errorHeader, url.QueryEscape(clip(err.Error(), maxFault)))
		body = nil
	}
	resp, err := s.do(ctx, http.MethodPost, answerPath+strconv.FormatInt(a.ID, 10), header, body)
	if err == nil {
		resp.Body.Close()
	}
}

// errNotIts says that a machine asks for what it was not told to run.
var errNotIts = errors.New("nothing that this machine is to run needs it")

// find gives what a machine asks for, if it has to know it.
func (s *session) find(ctx context.Context, a ask) (io.ReadCloser, error) {
	r, o := s.r, s.r.f.o
	switch a.Kind {
	case askSecrets:
		if !r.asks(func(w Wanted) bool { return w.Release == a.Release && w.Service == a.Service }) {
			return nil, errNotIts
		}
		values, err := o.Secrets(ctx, a.Release, a.Service)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(values)
		return io.NopCloser(bytes.NewReader(text)), err
	case askArtifact:
		if a.Digest == "" || !r.asks(func(w Wanted) bool { return w.Revision.Artifact == a.Digest }) {
			return nil, errNotIts
		}
		return o.Artifact(ctx, a.Digest)
	case askDrained:
		if !r.reaches(a.Addr) || o.Drained == nil {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(ctx, drainLimit)
		defer cancel()
		return nil, o.Drained(ctx, a.Addr)
	case askManifest, askBlob:
		if a.Image == "" || o.Images == nil || !r.asks(func(w Wanted) bool { return w.Revision.Image == a.Image }) {
			return nil, errNotIts
		}
		return imagePart(o.Images, a)
	}
	return nil, fmt.Errorf("this server knows nothing of the question %.20q: its version may be older", a.Kind)
}

// imagePart gives the manifest of an image, or what that needs.
func imagePart(images *image.Store, a ask) (io.ReadCloser, error) {
	repository, digest, _ := strings.Cut(a.Image, "@")
	manifest, _, _, err := images.Manifest(repository, digest)
	if err != nil || a.Kind == askManifest {
		return io.NopCloser(bytes.NewReader(manifest)), err
	}
	needs, err := image.Needs(manifest)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(needs, a.Digest) {
		return nil, errNotIts
	}
	content, _, err := images.OpenBlob(a.Digest)
	return content, err
}
