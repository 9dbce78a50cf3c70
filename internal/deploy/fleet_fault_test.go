//go:build linux

package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/imagetest"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// pair is a place with a fleet and its machine, whose connection a test may have broken.
type pair struct {
	*place
	f    *far
	a    *afar
	link context.CancelFunc // ends the connection, and those that would come
}

// pair opens one.
func (m *machines) pair(t *testing.T, o FleetOptions, wrap func(net.Conn) net.Conn) *pair {
	t.Helper()
	p := &pair{}
	p.place = suite{dial: proxy.Dial, open: func(t *testing.T, place string, told Options) Target {
		o.Options, o.Log = told, logTo(t)
		p.f, p.a = listen(t, "one", o), m.afar(t, place)
		p.a.wrap = wrap
		p.join()
		p.f.after = p.a.close
		return p.f
	}}.place(t)
	return p
}

// join connects the machine.
func (p *pair) join() {
	ctx, cancel := context.WithCancel(p.a.ctx)
	p.link = cancel
	p.a.connect(ctx, p.f.listener.Addr().String())
}

// leave breaks the connection, and waits until the fleet has noticed.
func (p *pair) leave() {
	p.link()
	p.poll("the machine is away", func() bool { return len(p.f.Connected()) == 0 })
}

// short is a connection that breaks after some bytes.
type short struct {
	net.Conn
	left atomic.Int64
}

func (c *short) take(n int, err error) (int, error) {
	if c.left.Add(int64(-n)) < 0 {
		c.Close()
		return n, errors.New("cut")
	}
	return n, err
}

func (c *short) Read(p []byte) (int, error)  { return c.take(c.Conn.Read(p)) }
func (c *short) Write(p []byte) (int, error) { return c.take(c.Conn.Write(p)) }

// TestFleetIsCut breaks the connection again and again, in the middle of whatever is said: it comes to the same in the end, and
// nothing is started twice.
func TestFleetIsCut(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	var cuts atomic.Int64
	p := plainly(t).pair(t, FleetOptions{}, func(c net.Conn) net.Conn {
		if cuts.Add(1) > 40 {
			return c
		}
		s := &short{Conn: c}
		s.left.Store(1 << (5 + rng.IntN(17))) // in one goroutine: one connection after the other
		return s
	})
	p.secrets = map[string]string{"TOKEN": "s3cr3t-value"}
	r := appRevision("one")
	r.Secrets = map[string]string{"TOKEN": "v1"}
	w := wanted(1, r)
	w.Instances = 2
	p.target.Ensure([]Wanted{w})
	p.poll("there were cuts", func() bool { return cuts.Load() > 10 })
	for index := range 2 {
		if i := p.wait(1, index, cd.Healthy); i.Restarts != 0 || !strings.HasPrefix(p.page(i, "/"), "one ") {
			t.Errorf("came up as %+v", i)
		}
	}
	p.target.Ensure([]Wanted{wanted(1, r)})
	p.wait(1, 1, cd.Stopped)
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.told, func(o told) bool { return o.Instance.State == cd.Exited || o.Instance.State == cd.Ill }) {
		t.Errorf("told %s", history(p.told))
	}
}

// TestFleetHookIsCut breaks the connection while a hook runs: it ends there, and says here why it has no outcome.
func TestFleetHookIsCut(t *testing.T) {
	t.Parallel()
	p := plainly(t).pair(t, FleetOptions{}, nil)
	mark := unique(t)
	r := appRevision("one", "MARK="+mark)
	out := syncBuffer{wake: func(text string) {
		if strings.Contains(text, "listening") {
			p.link()
		}
	}}
	err := p.target.Run(p.ctx, wanted(1, r), []string{"./bin/app"}, &out)
	if exit := (*sandbox.ExitError)(nil); err == nil || errors.As(err, &exit) || !strings.Contains(err.Error(), "the connection to machine one has ended") {
		t.Errorf("the hook: %v", err)
	}
	p.poll("the hook has ended there", func() bool { return len(processes("MARK="+mark)) == 0 })
	p.join()
}

// TestFleetMachineIsLost has a machine away for longer than its lease, and back.
func TestFleetMachineIsLost(t *testing.T) {
	t.Parallel()
	p := plainly(t).pair(t, FleetOptions{lease: 300 * time.Millisecond}, nil)
	w, other := wanted(1, appRevision("one")), wanted(2, appRevision("two"))
	p.target.Ensure([]Wanted{w, other})
	i, gone := p.wait(1, 0, cd.Healthy), p.wait(2, 0, cd.Healthy)
	at := p.mark()
	p.leave()
	ill := p.waitFrom(at, 1, 0, cd.Ill)
	if !strings.HasPrefix(ill.Reason, "machine one has not been heard of since 20") || ill.Addr != i.Addr || ill.Restarts != 0 {
		t.Errorf("away it is told as %+v", ill)
	}
	p.page(i, "/") // it serves all the while
	if err := p.target.Run(p.ctx, w, []string{"./bin/app", "print"}, io.Discard); err == nil || !strings.Contains(err.Error(), "machine one has not been heard of since") {
		t.Errorf("a hook: %v", err)
	}
	if err := p.target.Logs(p.ctx, w, 0, 1, false, io.Discard); err == nil || !strings.Contains(err.Error(), "machine one has not been heard of since") {
		t.Errorf("logs: %v", err)
	}
	p.waitFrom(at, 2, 0, cd.Ill)
	p.target.Ensure([]Wanted{w})
	p.waitFrom(at, 2, 0, cd.Stopped) // nobody could tell
	p.target.Ensure([]Wanted{w, wanted(3, appRevision("three"))})
	if i := p.waitFrom(at, 3, 0, cd.Ill); !strings.HasPrefix(i.Reason, "machine one has not been heard of since") {
		t.Errorf("what begins meanwhile: %+v", i)
	}
	p.page(gone, "/")
	at = p.mark()
	p.join()
	if back := p.waitFrom(at, 1, 0, cd.Healthy); back.Addr != i.Addr || back.Restarts != 0 {
		t.Errorf("back it is told as %+v, was %+v", back, i)
	}
	p.waitFrom(at, 3, 0, cd.Healthy)
	p.poll("what is not wanted has ended", func() bool { _, err := p.get(gone, "/"); return err != nil })
}

// TestFleetMachineIsRemoved ends the connection of a machine that was removed, and gives it up.
func TestFleetMachineIsRemoved(t *testing.T) {
	t.Parallel()
	var removed atomic.Bool
	p := plainly(t).pair(t, FleetOptions{Joined: func(context.Context) (map[string]bool, error) {
		return map[string]bool{"one": !removed.Load()}, nil
	}}, nil)
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	p.wait(1, 0, cd.Healthy)
	at := p.mark()
	p.link() // the server would not let it in any more
	removed.Store(true)
	if i := p.waitFrom(at, 1, 0, cd.Exited); i.Reason != "machine one was removed" || i.Addr != "" {
		t.Errorf("told %+v", i)
	}
	removed.Store(false)
	p.join()
	p.waitFrom(at, 1, 0, cd.Healthy)
}

// TestFleetTellsAgain has a release learn that an instance has ended whose end was missed.
func TestFleetTellsAgain(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(*machines) *place{
		"host":  func(m *machines) *place { return m.suite().place(t) },
		"fleet": func(m *machines) *place { return m.pair(t, FleetOptions{}, nil).place },
	} {
		p := target(plainly(t))
		w := wanted(1, appRevision("one"))
		w.Instances = 0
		w.Known = []cd.Instance{{Index: 0, State: cd.Healthy, Addr: "127.0.0.1:1"}}
		p.target.Ensure([]Wanted{w})
		if i := p.wait(1, 0, cd.Stopped); i.Index != 0 {
			t.Errorf("%s: told %+v", name, i)
		}
	}
}

// TestFleetImage brings an image to a machine that only the server has, in parts, and no other.
func TestFleetImage(t *testing.T) {
	t.Parallel()
	m := isolated(t)
	dir, err := os.MkdirTemp("", "images-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := layer.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	layers, err := layer.Open(filepath.Join(dir, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	images, err := image.Open(filepath.Join(dir, "images"), layers, image.Options{Owner: sandbox.Owner()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := appFile(); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(appPath())
	if err != nil {
		t.Fatal(err)
	}
	img, err := imagetest.New("app:1000").File("/bin/app", string(program), 0o755).Load(t.Context(), images, "localhost/acme/shop/web:1", v1.Config{Cmd: []string{"/bin/app"}})
	if err != nil {
		t.Fatal(err)
	}
	ref := pinned(img.Name, img.Digest)
	p := m.pair(t, FleetOptions{Images: images}, nil)
	r := cd.Revision{ID: "one", Image: ref, Port: 80, Env: map[string]string{"APP_NAME": "of an image"}}
	p.target.Ensure([]Wanted{wanted(1, r)})
	if i := p.wait(1, 0, cd.Healthy); !strings.HasPrefix(p.page(i, "/"), "of an image ") {
		t.Errorf("told %+v", i)
	}
	missing := cd.Revision{ID: "two", Image: "127.0.0.1:1/nothing@sha256:" + strings.Repeat("0", 64), Port: 80}
	p.target.Ensure([]Wanted{wanted(1, r), wanted(2, missing)})
	if i := p.wait(2, 0, cd.Exited); !strings.Contains(i.Reason, "127.0.0.1:1") || !strings.Contains(i.Reason, "and of the server: ") {
		t.Errorf("an image that nobody has: %q", i.Reason)
	}
	if err := p.a.machine.Fetch(p.ctx, m.images.Store, strings.Replace(ref, "shop/web", "shop/api", 1)); err == nil || !strings.Contains(err.Error(), errNotIts.Error()) {
		t.Errorf("another image: %v", err)
	}
}

// TestFleetOtherArtifact does not run what came in place of an artifact.
func TestFleetOtherArtifact(t *testing.T) {
	t.Parallel()
	p := plainly(t).pair(t, FleetOptions{}, nil)
	p.f.o.Artifact = func(context.Context, string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("something else")), nil
	}
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	if i := p.wait(1, 0, cd.Exited); !strings.Contains(i.Reason, errOther.Error()) {
		t.Errorf("told %+v", i)
	}
	if left, err := os.ReadDir(p.a.machine.dir); err != nil || len(left) > 1 { // one may be under way
		t.Errorf("left in place: %v, %v", left, err)
	}
}

// hostile is a machine that says what it likes.
type hostile struct {
	t     *testing.T
	lines chan string
	mu    sync.Mutex
	got   map[string]string // answers, by number
	heard chan struct{}
	wants chan wants
	ended chan struct{}
}

// hostile connects one to a fleet, by a name.
func (p *place) hostile(t *testing.T, f *Fleet, name string) *hostile {
	h := &hostile{t: t, lines: make(chan string), got: map[string]string{}, heard: make(chan struct{}, 100), wants: make(chan wants, 100), ended: make(chan struct{})}
	theirs, ours := net.Pipe()
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+wantedPath, func(w http.ResponseWriter, r *http.Request) {
		var in wants
		if json.NewDecoder(r.Body).Decode(&in) == nil { // else the test is over
			h.wants <- in
		}
	})
	mux.HandleFunc("POST "+asksPath, func(w http.ResponseWriter, r *http.Request) {
		out := newStream(w)
		for {
			select {
			case line := <-h.lines:
				_, _ = io.WriteString(out, line+"\n")
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("POST "+answerPath+"{id}", func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		h.got[r.PathValue("id")] = strings.TrimSpace(r.Header.Get(errorHeader) + " " + string(text))
		h.mu.Unlock()
		h.heard <- struct{}{}
	})
	mux.HandleFunc("POST "+runPath, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "no outcome") })
	mux.HandleFunc("POST "+logsPath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(http.TrailerPrefix+outcomeTrailer, "%7B%22error%22:"+strings.Repeat("x", 1000))
	})
	go func() { _ = serveConn(context.Background(), theirs, mux) }()
	go func() {
		_ = f.Serve(context.Background(), Offer{Name: name, Address: netip.MustParseAddr("192.0.2.7")}, ours)
		close(h.ended)
	}()
	t.Cleanup(func() { theirs.Close(); <-h.ended })
	return h
}

// ask says a line and gives the answer.
func (h *hostile) ask(a ask) string {
	h.t.Helper()
	line, err := json.Marshal(a)
	if err != nil {
		h.t.Fatal(err)
	}
	h.lines <- string(line)
	<-h.heard
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, text := range h.got {
		clear(h.got)
		return text
	}
	return ""
}

// TestFleetHostileMachine has a machine ask for what is others', and tell of it.
func TestFleetHostileMachine(t *testing.T) {
	t.Parallel()
	p := &place{t: t, heard: make(chan struct{})}
	p.secrets = map[string]string{"TOKEN": "s3cr3t-value"}
	var drained atomic.Int64
	o := p.options()
	o.Drained = func(context.Context, string) error { drained.Add(1); return nil }
	f := NewFleet(nil, FleetOptions{Options: o, Log: logTo(t)})
	defer f.Close()
	own, others := wanted(1, appRevision("one")), wanted(2, appRevision("two"))
	own.Revision.Artifact, own.Revision.Image = "0123", "localhost/a/b@sha256:0123"
	own.Machines, others.Machines = []string{"bad"}, []string{"good", "bad"}
	others.Known = []cd.Instance{{Index: 0, State: cd.Healthy}, {Index: 2, State: cd.Healthy}}
	f.Ensure([]Wanted{own, others})
	h := p.hostile(t, f, "bad")
	if w := <-h.wants; len(w.Wanted) != 2 || len(w.Wanted[0].instances()) != 1 || len(w.Wanted[1].instances()) != 0 {
		t.Errorf("it is told to run %+v", w)
	}
	for name, a := range map[string]ask{
		"secrets":          {ID: 1, Kind: askSecrets, Release: 2, Service: "web"},
		"service":          {ID: 1, Kind: askSecrets, Release: 1, Service: "api"},
		"artifact":         {ID: 1, Kind: askArtifact, Digest: appDigest()},
		"no artifact":      {ID: 1, Kind: askArtifact},
		"manifest":         {ID: 1, Kind: askManifest, Image: "localhost/other@sha256:0123"},
		"no image":         {ID: 1, Kind: askBlob, Digest: "sha256:0123"},
		"images of nobody": {ID: 1, Kind: askManifest, Image: own.Revision.Image},
	} {
		if got := h.ask(a); !strings.HasPrefix(got, "nothing+that+this+machine") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := h.ask(ask{ID: 1, Kind: "keys"}); !strings.Contains(got, "knows+nothing+of+the+question") {
		t.Errorf("an unknown question: %q", got)
	}
	if got := h.ask(ask{ID: 2, Kind: askSecrets, Release: 1, Service: "web"}); got != `{"TOKEN":"s3cr3t-value"}` {
		t.Errorf("its own secrets: %q", got)
	}
	if h.ask(ask{ID: 2, Kind: askDrained, Addr: "127.0.0.1:80"}); drained.Load() != 0 {
		t.Error("it waits for others' requests")
	}
	tell := func(release cd.ReleaseID, i cd.Instance) string {
		t.Helper()
		return h.ask(ask{ID: 3, Kind: askSeen, Release: release, Service: "web", Instance: &i})
	}
	for _, addr := range []string{"127.0.0.1:25000", "192.0.2.7:80", "192.0.2.7:65535", "unix:/run/docker.sock", "localhost:25000", "192.0.2.8:25000", "192.0.2.7:25000x"} {
		if got := tell(1, cd.Instance{State: cd.Healthy, Addr: addr}); !strings.Contains(got, "is+no+address+of+an+instance") {
			t.Errorf("an instance at %s: %q", addr, got)
		}
	}
	for _, got := range []string{
		tell(2, cd.Instance{Index: 0, State: cd.Stopped}), tell(2, cd.Instance{Index: 0, State: cd.Ill}), tell(1, cd.Instance{Index: 1, State: cd.Healthy}),
		tell(9, cd.Instance{State: cd.Healthy}), tell(1, cd.Instance{State: cd.Healthy, Addr: "192.0.2.7:25000", Since: time.Now().Add(time.Hour)}),
	} {
		if got != "" {
			t.Errorf("told of: %q", got)
		}
	}
	p.wait(1, 0, cd.Healthy)
	p.mu.Lock()
	if len(p.told) != 1 || p.told[0].Instance.Since.After(time.Now()) {
		t.Errorf("told %s", history(p.told))
	}
	p.mu.Unlock()
	if err := f.Run(t.Context(), own, []string{"true"}, io.Discard); !errors.Is(err, errNoOutcome) {
		t.Errorf("a hook without an outcome: %v", err)
	}
	if err := f.Logs(t.Context(), own, 0, 1, false, io.Discard); !errors.Is(err, errNoOutcome) {
		t.Errorf("logs without an outcome: %v", err)
	}
	h.lines <- strings.Repeat("x", maxAsk)
	<-h.ended
	for _, line := range []string{"no JSON", "{}", `{"id":1,"kind":"seen"}`, `{"id":1,"kind":"seen","instance":{"state":"well"}}`, `{"id":1,"kind":"seen","instance":{"state":"ill","index":-1}}`} {
		h := p.hostile(t, f, "bad")
		h.lines <- line
		<-h.ended
	}
}

// TestFleetWaitsForItsCarrier tells no machine to run nothing before it knows what is wanted: a server that starts would end all.
func TestFleetWaitsForItsCarrier(t *testing.T) {
	t.Parallel()
	p := &place{t: t, heard: make(chan struct{})}
	f := NewFleet(nil, FleetOptions{Options: p.options(), Log: logTo(t)})
	defer f.Close()
	early := p.hostile(t, f, "early")
	early.ask(ask{ID: 1, Kind: askSecrets}) // it is connected
	w := wanted(1, appRevision("one"))
	w.Machines = []string{"early"}
	f.Ensure([]Wanted{w})
	if got := <-early.wants; len(got.Wanted) != 1 {
		t.Errorf("first it is told to run %+v", got.Wanted)
	}
	late := p.hostile(t, f, "late")
	if got := <-late.wants; got.Wanted != nil {
		t.Errorf("one that nothing is wanted of is told to run %+v", got.Wanted)
	}
}

// TestFleetHearsEarly takes note of what a machine tells before it is known what is wanted of it: it tells it once.
func TestFleetHearsEarly(t *testing.T) {
	t.Parallel()
	p := &place{t: t, heard: make(chan struct{})}
	f := NewFleet(nil, FleetOptions{Options: p.options(), Log: logTo(t)})
	defer f.Close()
	h := p.hostile(t, f, "early")
	for index := range 3 {
		h.ask(ask{ID: 1, Kind: askSeen, Release: 1, Service: "web", Instance: &cd.Instance{Index: index, State: cd.Healthy}})
	}
	h.ask(ask{ID: 1, Kind: askSeen, Release: 1, Service: "web", Instance: &cd.Instance{Index: 1, State: cd.Stopped}})
	at := p.mark()
	w := wanted(1, appRevision("one"))
	w.Machines, w.Instances, w.Known = []string{"early"}, 2, []cd.Instance{{Index: 0, State: cd.Starting}}
	f.Ensure([]Wanted{w})
	p.waitFrom(at, 1, 0, cd.Healthy)
	w.Instances = 3
	f.Ensure([]Wanted{w})
	p.waitFrom(at, 1, 2, cd.Healthy)
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.told[at:], func(o told) bool { return o.Instance.Index == 1 && o.Instance.State != cd.Stopped }) {
		t.Errorf("told %s", history(p.told))
	}
}

// TestFleetHearsTheLastConnection does not listen to what comes by an earlier one.
func TestFleetHearsTheLastConnection(t *testing.T) {
	t.Parallel()
	p := &place{t: t, heard: make(chan struct{})}
	f := NewFleet(nil, FleetOptions{Options: p.options(), Log: logTo(t)})
	defer f.Close()
	w := wanted(1, appRevision("one"))
	w.Machines = []string{"one"}
	f.Ensure([]Wanted{w})
	r := f.machine("one")
	var ended error
	first, second := &session{end: func(err error) { ended = err }}, &session{end: func(error) {}}
	r.begin(first)
	r.begin(second)
	if ended == nil {
		t.Error("the first goes on")
	}
	for s, state := range map[*session]cd.State{first: cd.Exited, second: cd.Healthy} {
		if err := r.seen(s, instanceID{1, "web", 0}, cd.Instance{State: state}); err != nil {
			t.Error(err)
		}
	}
	p.wait(1, 0, cd.Healthy)
	if p.mark() != 1 {
		t.Errorf("told %s", history(p.told))
	}
}

// TestMachineHears has a machine want what was said last, whatever comes late.
func TestMachineHears(t *testing.T) {
	t.Parallel()
	m, err := NewMachine(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var target recording
	s := &machineSession{m: m, ctx: t.Context(), end: func() {}, target: &target, peer: loopback}
	put := func(version int64, releases ...cd.ReleaseID) int {
		w := wants{Version: version, From: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
		for _, id := range releases {
			w.Wanted = append(w.Wanted, wanted(id, appRevision("one")))
		}
		text, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		s.wanted(rec, httptest.NewRequest("PUT", wantedPath, bytes.NewReader(text)))
		return rec.Code
	}
	for _, c := range []struct {
		version  int64
		releases []cd.ReleaseID
		code     int
		want     int // releases
	}{{1, nil, 200, 0}, {3, []cd.ReleaseID{1, 2}, 200, 2}, {2, nil, 409, 2}, {3, nil, 409, 2}, {4, []cd.ReleaseID{2}, 200, 1}} {
		if code := put(c.version, c.releases...); code != c.code || len(target.wanted) != c.want {
			t.Errorf("version %d: %d, wants %d releases", c.version, code, len(target.wanted))
		}
	}
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), loopback}; !slices.Equal(target.admitted, want) {
		t.Errorf("admits %v, want %v", target.admitted, want)
	}
	s.close()
	if code := put(5); code != 409 || len(target.wanted) != 1 {
		t.Errorf("after the end: %d, wants %d releases", code, len(target.wanted))
	}
}

// recording is a target that only takes note.
type recording struct {
	wanted   []Wanted
	admitted []netip.Addr
}

func (r *recording) Ensure(w []Wanted)             { r.wanted = w }
func (r *recording) Admit(from []netip.Addr) error { r.admitted = from; return nil }
func (r *recording) Run(context.Context, Wanted, []string, io.Writer) error {
	return nil
}
func (r *recording) Logs(context.Context, Wanted, int, int, bool, io.Writer) error { return nil }
func (r *recording) Close() error                                                  { return nil }

// TestGate passes on what those send who may, in both directions and to the end of each, and refuses others.
func TestGate(t *testing.T) {
	t.Parallel()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	answered := make(chan struct{}, 10)
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				text, _ := io.ReadAll(c)
				_, _ = c.Write(bytes.ToUpper(text))
				c.Close()
				answered <- struct{}{}
			}()
		}
	}()
	var open atomic.Bool
	open.Store(true)
	g, err := openGate(loopback, 0, func(from netip.Addr) bool { return open.Load() && from == loopback }, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", echo.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	at := g.listener.Addr().(*net.TCPAddr)
	if !keepersPort(at.Port) {
		t.Errorf("it listens at %s", at)
	}
	say := func() (string, error) {
		c, err := net.DialTCP("tcp", nil, at)
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, err := c.Write(bytes.Repeat([]byte("well"), 1<<16)); err != nil {
			return "", err
		}
		if err := c.CloseWrite(); err != nil {
			return "", err
		}
		text, err := io.ReadAll(c)
		return string(text), err
	}
	if got, err := say(); err != nil || got != strings.Repeat("WELL", 1<<16) {
		t.Errorf("passed on: %d bytes, %v", len(got), err)
	}
	open.Store(false)
	if got, err := say(); err == nil || got != "" {
		t.Errorf("one that may not: %q, %v", got, err)
	}
	open.Store(true)
	last, err := net.DialTCP("tcp", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	if _, err := last.Write(bytes.Repeat([]byte("well"), 1<<16)); err != nil {
		t.Fatal(err)
	}
	if err := last.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.DialTCP("tcp", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	<-answered
	<-answered
	g.close()
	if text, err := io.ReadAll(last); err != nil || len(text) != 4<<16 {
		t.Errorf("of an answer before the end %d bytes came, %v", len(text), err)
	}
	if _, err := waiting.Read(make([]byte, 1)); err == nil {
		t.Error("what was under way goes on after the end")
	}
	if _, err := say(); err == nil {
		t.Error("it listens after its end")
	}
	again, err := openGate(loopback, at.Port, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if again.listener.Addr().String() != at.String() {
		t.Errorf("it is at %s now, was at %s", again.listener.Addr(), at)
	}
	other, err := openGate(loopback, at.Port, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if other.listener.Addr().String() == at.String() {
		t.Error("two listen at one place")
	}
}

// gateTo opens a gate to a server, whose own address it gives too. serve has each connection, which is closed then.
func gateTo(t testing.TB, serve func(net.Conn)) (*gate, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	at := l.Addr().String()
	g, err := openGate(loopback, 0, func(netip.Addr) bool { return true }, func(ctx context.Context) (net.Conn, error) { return proxy.Dial(ctx, at) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.close)
	return g, at
}

// TestGateEarlyAnswer passes an answer on that comes before the end of the request, and is the last of its program.
func TestGateEarlyAnswer(t *testing.T) {
	t.Parallel()
	g, _ := gateTo(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 10))
		_, _ = io.WriteString(c, "413 too much")
	})
	for range 20 {
		c, err := net.Dial("tcp", g.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go func() { // until it is closed
			for piece := make([]byte, 1<<16); ; {
				if _, err := c.Write(piece); err != nil {
					return
				}
			}
		}()
		text := make([]byte, 12)
		if _, err := io.ReadFull(c, text); err != nil || string(text) != "413 too much" {
			t.Errorf("the answer is %q, %v", text, err)
		}
		c.Close()
	}
}

// TestGateStays keeps the address of an instance while it is started again, by its keeper and by another one.
func TestGateStays(t *testing.T) {
	t.Parallel()
	p := plainly(t).pair(t, FleetOptions{}, nil)
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	i := p.wait(1, 0, cd.Healthy)
	at := p.mark()
	if _, err := p.get(i, "/die"); err == nil {
		t.Error("it lives")
	}
	p.waitFrom(at, 1, 0, cd.Exited)
	if _, err := net.Dial("tcp", i.Addr); err == nil {
		t.Error("who connects while nothing runs is not refused")
	}
	if back := p.waitFrom(at, 1, 0, cd.Healthy); back.Addr != i.Addr || back.Restarts != 1 {
		t.Errorf("it is back as %+v, was %+v", back, i)
	}
	at = p.mark()
	for _, name := range homes(t, filepath.Join(p.dir, "i")) {
		if err := killKeeper(name); err != nil {
			t.Fatal(err)
		}
	}
	if back := p.waitFrom(at, 1, 0, cd.Healthy); back.Addr != i.Addr || back.Restarts != 2 {
		t.Errorf("with another keeper it is back as %+v, was %+v", back, i)
	}
}

// FuzzAsk reads what machines say.
func FuzzAsk(f *testing.F) {
	for _, line := range []string{`{"id":1,"kind":"seen","release":1,"service":"web","instance":{"index":0,"state":"healthy"}}`, `{"id":2,"kind":"secrets"}`, `{"id":0}`, `[]`, ``} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		a, err := parseAsk(line)
		if err != nil || a.Kind != askSeen {
			return
		}
		if i := a.Instance; i == nil || i.Index < 0 || i.Restarts < 0 || len(i.Reason) > maxReason+16 || i.State == "" {
			t.Errorf("taken: %+v", a)
		}
	})
}

// FuzzOutcome reads how what was asked ended.
func FuzzOutcome(f *testing.F) {
	f.Add(outcomeOf(errors.New("no")).String())
	f.Add(outcomeOf(&sandbox.ExitError{Code: 3}).String())
	f.Add("%7")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parseOutcome(text)
		if err != nil {
			return
		}
		if err := o.err(); err != nil && len(err.Error()) > 2*maxFault {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}

// BenchmarkGate asks a server for a page by a gate, and directly.
func BenchmarkGate(b *testing.B) {
	page := []byte("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000))
	g, direct := gateTo(b, func(c net.Conn) {
		for in := make([]byte, 100); ; {
			if _, err := io.ReadFull(c, in); err != nil {
				return
			}
			if _, err := c.Write(page); err != nil {
				return
			}
		}
	})
	for name, at := range map[string]string{"direct": direct, "gate": g.listener.Addr().String()} {
		b.Run(name, func(b *testing.B) {
			c, err := net.Dial("tcp", at)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			out, in := make([]byte, 100), make([]byte, len(page))
			for b.Loop() {
				if _, err := c.Write(out); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
