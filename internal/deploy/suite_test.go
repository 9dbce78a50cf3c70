package deploy

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// suite is what every target must do. open opens a target of a place, which another target has had before if it is called
// again with the same place; dial connects to an address that the target has given.
type suite struct {
	open func(t *testing.T, place string, o Options) Target
	dial func(ctx context.Context, addr string) (net.Conn, error)
}

func (s suite) run(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T, suite)
	}{
		{"becomes healthy", suiteHealthy}, {"environment", suiteEnvironment}, {"same port twice", suiteSamePort}, {"several", suiteScale}, {"without a port", suiteWorker},
		{"dies at start", suiteDiesAtStart}, {"never listens", suiteNeverListens}, {"ill and well again", suiteIll}, {"hanging health", suiteHangs}, {"ill for long", suiteRevive},
		{"crash", suiteCrash}, {"stop drains", suiteDrains}, {"stubborn", suiteStubborn}, {"taken over", suiteTakenOver}, {"hooks", suiteRun},
		{"hook that lasts", suiteRunStopped}, {"logs", suiteLogs}, {"logs of the dead", suiteLogsGone}, {"no artifact", suiteNoArtifact}, {"seen fails", suiteSeenFails},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, s)
		})
	}
}

// appFile is the program of testdata/app. A test in a process of its own finds it in its environment.
var appFile = sync.OnceValues(func() (string, error) {
	if name := os.Getenv("PENSTOCK_TEST_APP"); name != "" {
		return name, nil
	}
	dir, err := os.MkdirTemp("", "deploy-app-")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "app")
	cmd := exec.Command("go", "build", "-o", name, "./testdata/app")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return name, nil
})

func appPath() string {
	name, _ := appFile() // who calls has seen its error
	return name
}

// appTar is the program as an artifact.
var appTar = sync.OnceValues(func() ([]byte, error) {
	name, err := appFile()
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = w.WriteHeader(&tar.Header{Name: "bin/app", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(program)
	}
	return b.Bytes(), errors.Join(err, w.Close())
})

func appDigest() string {
	text, _ := appTar() // who opens it sees its error
	return fmt.Sprintf("%x", sha256.Sum256(text))
}

// artifact opens it.
func artifact(_ context.Context, digest string) (io.ReadCloser, error) {
	if digest != appDigest() {
		return nil, errors.New("no such artifact")
	}
	text, err := appTar()
	return io.NopCloser(bytes.NewReader(text)), err
}

// appRevision is a revision of the program, with variables.
func appRevision(id string, env ...string) cd.Revision {
	r := cd.Revision{
		ID: id, Artifact: appDigest(), Command: []string{"./bin/app"}, Port: 8000, Grace: 2 * time.Second,
		Env: map[string]string{"APP_NAME": id},
	}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		r.Env[k] = v
	}
	return r
}

// quickHealth is asked for often.
var quickHealth = cd.Health{Path: "/health", Interval: 50 * time.Millisecond, Timeout: 2 * time.Second, Retries: 200}

func wanted(release cd.ReleaseID, r cd.Revision) Wanted {
	return Wanted{Release: release, Service: "web", Revision: r, Instances: 1, Health: quickHealth, Repository: "acme/shop", Environment: "production"}
}

// named is what names the instances of a release.
func (p *place) named(release cd.ReleaseID) Wanted { return Wanted{Release: release, Service: "web"} }

// place is a target of the suite with what it has told.
type place struct {
	t      *testing.T
	suite  suite
	dir    string
	target Target
	over   bool
	ctx    context.Context

	mu       sync.Mutex
	told     []told
	heard    chan struct{} // closed when told grows
	drained  []string
	drain    func(ctx context.Context, addr string) error
	secrets  map[string]string
	seenFail int
}

// told is one call of Seen.
type told struct {
	release cd.ReleaseID
	cd.Observed
}

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

func (s suite) place(t *testing.T) *place {
	t.Helper()
	if _, err := appFile(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "place-") // a short path
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p := &place{t: t, suite: s, dir: dir, ctx: ctx, heard: make(chan struct{})}
	t.Cleanup(func() {
		if err := os.RemoveAll(p.dir); err != nil {
			t.Error(err)
		}
	})
	p.reopen() // what it leaves to be closed is closed once nothing runs
	t.Cleanup(func() { cancel(); p.end() })
	return p
}

// options are those of the place, for a target that is told of elsewhere.
func (p *place) options() Options {
	return Options{Seen: p.seen, Secrets: p.resolve, Artifact: artifact, Drained: p.drainedNow}
}

// reopen opens a target, after the one before was closed or was killed.
func (p *place) reopen() {
	p.t.Helper()
	p.target = p.suite.open(p.t, p.dir, p.options())
}

// close closes the target; what runs goes on.
func (p *place) close() {
	p.t.Helper()
	if err := p.target.Close(); err != nil {
		p.t.Error(err)
	}
	p.target = nil
}

// end stops what runs, once.
func (p *place) end() {
	if p.over {
		return
	}
	p.over = true
	if p.target == nil {
		p.reopen()
	}
	p.ctx = context.Background()
	p.mu.Lock()
	running := map[string]told{}
	for _, o := range p.told {
		running[fmt.Sprint(o.release, o.Service, o.Instance.Index)] = o
	}
	p.drain = nil
	p.mu.Unlock()
	p.target.Ensure(nil)
	for _, o := range running {
		if o.Instance.State != cd.Stopped {
			p.wait(o.release, o.Instance.Index, cd.Stopped)
		}
	}
	p.close()
}

func (p *place) seen(_ context.Context, release cd.ReleaseID, o cd.Observed) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seenFail > 0 {
		p.seenFail--
		return errors.New("not now")
	}
	p.told = append(p.told, told{release, o})
	close(p.heard)
	p.heard = make(chan struct{})
	return nil
}

func (p *place) resolve(context.Context, cd.ReleaseID, string) (map[string]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.secrets == nil {
		return nil, errors.New("the vault is closed")
	}
	return p.secrets, nil
}

func (p *place) drainedNow(ctx context.Context, addr string) error {
	p.mu.Lock()
	p.drained = append(p.drained, addr)
	drain := p.drain
	p.mu.Unlock()
	if drain != nil {
		return drain(ctx, addr)
	}
	return nil
}

// mark is how much has been told.
func (p *place) mark() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.told)
}

// until waits for what is told of an instance, and gives it.
func (p *place) until(from int, what string, is func(told) bool) cd.Instance {
	p.t.Helper()
	limit := time.After(patience)
	for {
		p.mu.Lock()
		all, heard := p.told, p.heard
		p.mu.Unlock()
		for ; from < len(all); from++ {
			if is(all[from]) {
				return all[from].Instance
			}
		}
		select {
		case <-heard:
		case <-limit:
			p.t.Fatalf("waited for %s; was told %s", what, history(all))
		}
	}
}

func history(all []told) string {
	var b strings.Builder
	for _, o := range all {
		fmt.Fprintf(&b, "\n  %d/%s/%d %s restarts %d %q", o.release, o.Service, o.Instance.Index, o.Instance.State, o.Instance.Restarts, o.Instance.Reason)
	}
	return b.String()
}

// wait waits until an instance is told to be in a state.
func (p *place) wait(release cd.ReleaseID, index int, state cd.State) cd.Instance {
	p.t.Helper()
	return p.waitFrom(0, release, index, state)
}

func (p *place) waitFrom(from int, release cd.ReleaseID, index int, state cd.State) cd.Instance {
	p.t.Helper()
	return p.until(from, fmt.Sprintf("%d/%d %s", release, index, state), func(o told) bool {
		return o.release == release && o.Instance.Index == index && o.Instance.State == state
	})
}

// get asks an instance for a page.
func (p *place) get(i cd.Instance, path string) (string, error) { return p.post(i, path, "") }

func (p *place) post(i cd.Instance, path, body string) (string, error) {
	p.t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return p.suite.dial(ctx, i.Addr)
	}}}
	req, err := http.NewRequestWithContext(p.ctx, http.MethodPost, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// page is a page that must come.
func (p *place) page(i cd.Instance, path string) string {
	p.t.Helper()
	text, err := p.get(i, path)
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

func suiteHealthy(t *testing.T, s suite) {
	p := s.place(t)
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	i := p.wait(1, 0, cd.Healthy)
	if i.Addr == "" || i.Restarts != 0 || i.Reason != "" || i.Since.IsZero() {
		t.Errorf("told %s", history(p.told))
	}
	if got := p.page(i, "/"); !strings.HasPrefix(got, "one ") {
		t.Errorf("it answers %q", got)
	}
	if first := p.wait(1, 0, cd.Starting); first.Index != 0 {
		t.Errorf("first told %+v", first)
	}
	at := p.mark()
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	p.target.Ensure(nil)
	p.until(at, "the end, and nothing before", func(o told) bool {
		if o.Instance.State != cd.Stopped {
			t.Errorf("told %+v", o)
		}
		return o.Instance.State == cd.Stopped
	})
	if _, err := p.get(i, "/"); err == nil {
		t.Error("it answers after its end")
	}
}

func suiteEnvironment(t *testing.T, s suite) {
	p := s.place(t)
	p.secrets = map[string]string{"TOKEN": "s3cr3t-value", "PORT": "1", "APP_NAME": "from the secrets"}
	r := appRevision("one", "PLAIN=x y=z", "PORT=2")
	r.Secrets = map[string]string{"TOKEN": "v1", "APP_NAME": "v1"}
	r.Dir = "bin"
	r.Command = []string{"./app"}
	p.target.Ensure([]Wanted{wanted(1, r)})
	i := p.wait(1, 0, cd.Healthy)
	got := p.page(i, "/?env=PLAIN&env=TOKEN&env=PORT")
	first, rest, _ := strings.Cut(got, "\n")
	if !strings.HasPrefix(first, "from the secrets ") || !strings.HasSuffix(first, "/bin") || !strings.HasPrefix(rest, "PLAIN=x y=z\nTOKEN=s3cr3t-value\nPORT=") {
		t.Errorf("environment: %s", got)
	}
	if strings.HasSuffix(rest, "PORT=1\n") || strings.HasSuffix(rest, "PORT=2\n") {
		t.Errorf("PORT is not the target's: %s", got)
	}
	if _, err := p.post(i, "/say", "the token is s3cr3t-value.\n"); err != nil {
		t.Fatal(err)
	}
	p.logs(1, "the token is ***.")
}

// logs waits for a line in the log of an instance's first ten.
func (p *place) logs(release cd.ReleaseID, line string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	var b syncBuffer
	b.wake = func(text string) {
		if strings.Contains(text, line+"\n") {
			cancel()
		}
	}
	if err := p.target.Logs(ctx, p.named(release), 0, 10, true, &b); err != nil && !errors.Is(err, context.Canceled) {
		p.t.Fatalf("logs: %v", err)
	}
	if !strings.Contains(b.String(), line+"\n") {
		p.t.Fatalf("no line %q in %q", line, b.String())
	}
	return b.String()
}

// syncBuffer is a buffer that calls wake with all that it has.
type syncBuffer struct {
	mu   sync.Mutex
	b    strings.Builder
	wake func(string)
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Write(p)
	if b.wake != nil {
		b.wake(b.b.String())
	}
	return len(p), nil
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func suiteSamePort(t *testing.T, s suite) {
	p := s.place(t)
	p.target.Ensure([]Wanted{wanted(1, appRevision("one")), wanted(2, appRevision("two"))})
	one, two := p.wait(1, 0, cd.Healthy), p.wait(2, 0, cd.Healthy)
	if a, b := p.page(one, "/"), p.page(two, "/"); !strings.HasPrefix(a, "one ") || !strings.HasPrefix(b, "two ") || one.Addr == two.Addr {
		t.Errorf("%s answers %q, %s %q", one.Addr, a, two.Addr, b)
	}
	p.target.Ensure([]Wanted{wanted(2, appRevision("two"))})
	p.wait(1, 0, cd.Stopped)
	if got := p.page(two, "/"); !strings.HasPrefix(got, "two ") {
		t.Errorf("the other answers %q", got)
	}
}

func suiteScale(t *testing.T, s suite) {
	p := s.place(t)
	w := wanted(1, appRevision("one"))
	w.Instances = 3
	p.target.Ensure([]Wanted{w})
	addrs := map[string]bool{}
	for i := range 3 {
		addrs[p.wait(1, i, cd.Healthy).Addr] = true
	}
	if len(addrs) != 3 {
		t.Errorf("three instances have the addresses %v", addrs)
	}
	at := p.mark()
	w.Instances = 1
	p.target.Ensure([]Wanted{w})
	p.waitFrom(at, 1, 1, cd.Stopped)
	p.waitFrom(at, 1, 2, cd.Stopped)
	p.page(p.wait(1, 0, cd.Healthy), "/")
	at = p.mark()
	w.Instances = 2
	p.target.Ensure([]Wanted{w})
	p.page(p.waitFrom(at, 1, 1, cd.Healthy), "/")
}

// suiteWorker: without a port an instance is healthy when it has gone on running for a while, and is reached nowhere.
func suiteWorker(t *testing.T, s suite) {
	p := s.place(t)
	r := appRevision("one")
	r.Port, r.Command = 0, []string{"sh", "-c", "echo port ${PORT-none}; exec sleep 1000"}
	w := wanted(1, r)
	w.Health.Path = ""
	began := time.Now()
	p.target.Ensure([]Wanted{w})
	if i := p.wait(1, 0, cd.Healthy); i.Addr != "" {
		t.Errorf("it is reached at %s", i.Addr)
	}
	if took := time.Since(began); took < steady*w.Health.Interval {
		t.Errorf("it is healthy after %s", took)
	}
	p.logs(1, "port none")
	r.ID, r.Command = "two", []string{"sh", "-c", "exit 3"}
	bad := wanted(2, r)
	bad.Health.Path = ""
	p.target.Ensure([]Wanted{w, bad})
	if i := p.wait(2, 0, cd.Exited); !strings.Contains(i.Reason, "exit code 3") {
		t.Errorf("reason %q", i.Reason)
	}
	p.target.Ensure(nil)
	p.wait(1, 0, cd.Stopped)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.drained) != 0 {
		t.Errorf("waited for what is under way to %q", p.drained)
	}
}

func suiteDiesAtStart(t *testing.T, s suite) {
	p := s.place(t)
	p.target.Ensure([]Wanted{wanted(1, appRevision("one", "APP_DIES=no database"))})
	i := p.wait(1, 0, cd.Exited)
	if !strings.Contains(i.Reason, "exit code 3") || !strings.Contains(i.Reason, "no database") {
		t.Errorf("reason %q", i.Reason)
	}
	again := p.until(0, "two restarts", func(o told) bool { return o.Instance.State == cd.Exited && o.Instance.Restarts == 2 })
	if pause := again.Since.Sub(i.Since); pause < 2*time.Second {
		t.Errorf("two restarts within %s: it backs off", pause)
	}
}

func suiteNeverListens(t *testing.T, s suite) {
	p := s.place(t)
	elsewhere, nowhere := wanted(1, appRevision("one", "APP_PORT=3000")), wanted(2, appRevision("two", "APP_PORT=none"))
	elsewhere.Health.Retries, nowhere.Health.Retries, nowhere.Health.Path = 20, 20, ""
	p.target.Ensure([]Wanted{elsewhere, nowhere})
	for _, release := range []cd.ReleaseID{1, 2} {
		if i := p.wait(release, 0, cd.Ill); !strings.Contains(i.Reason, "nothing listens on port") {
			t.Errorf("reason %q", i.Reason)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.told, func(o told) bool { return o.Instance.State == cd.Healthy || o.Instance.State == cd.Exited }) {
		t.Errorf("told %s", history(p.told))
	}
}

func suiteIll(t *testing.T, s suite) {
	p := s.place(t)
	w := wanted(1, appRevision("one", "APP_HEALTH=warming up"))
	p.target.Ensure([]Wanted{w})
	why := p.until(0, "why it is not healthy yet", func(o told) bool { return o.Instance.State == cd.Starting && o.Instance.Reason != "" })
	if want := "GET /health answered 500: warming up"; why.Reason != want {
		t.Errorf("starting because %q, want %q", why.Reason, want)
	}
	p.page(why, "/mode?health=")
	i := p.wait(1, 0, cd.Healthy)
	w.Health.Retries = 3
	p.target.Ensure([]Wanted{w})
	at := p.mark()
	p.page(i, "/mode?health=no%20disk")
	ill := p.waitFrom(at, 1, 0, cd.Ill)
	if want := "GET /health answered 500: no disk"; ill.Reason != want || ill.Restarts != 0 || ill.Addr != i.Addr {
		t.Errorf("ill as %+v, want because %q", ill, want)
	}
	p.page(i, "/mode?health=")
	p.waitFrom(at, 1, 0, cd.Healthy)
}

func suiteHangs(t *testing.T, s suite) {
	p := s.place(t)
	w := wanted(1, appRevision("one", "APP_HEALTH=hang"))
	w.Health.Timeout, w.Health.Retries = 100*time.Millisecond, 5
	p.target.Ensure([]Wanted{w})
	if i := p.wait(1, 0, cd.Ill); i.Reason != "GET /health gave no answer within 100ms" {
		t.Errorf("reason %q", i.Reason)
	}
}

// suiteRevive holds that what was well and hangs is started again, even if it does not hear SIGTERM.
func suiteRevive(t *testing.T, s suite) {
	p := s.place(t)
	w := wanted(1, appRevision("one", "APP_STUBBORN=yes"))
	w.Health.Timeout, w.Health.Retries, w.Revive = 100*time.Millisecond, 3, true
	w.Revision.Grace = 100 * time.Millisecond
	p.target.Ensure([]Wanted{w})
	i := p.wait(1, 0, cd.Healthy)
	at := p.mark()
	p.page(i, "/mode?health=hang")
	if ill := p.waitFrom(at, 1, 0, cd.Ill); ill.Restarts != 0 {
		t.Errorf("ill as %+v", ill)
	}
	dead := p.waitFrom(at, 1, 0, cd.Exited)
	if want := "ended because it was ill: GET /health gave no answer within 100ms"; !strings.HasPrefix(dead.Reason, want) {
		t.Errorf("reason %q, want %q", dead.Reason, want)
	}
	back := p.waitFrom(at, 1, 0, cd.Healthy)
	if back.Restarts != 1 || !strings.HasPrefix(p.page(back, "/"), "one ") {
		t.Errorf("came back as %+v", back)
	}
	var log strings.Builder
	if err := p.target.Logs(p.ctx, p.named(1), 0, 100, false, &log); err != nil || !strings.Contains(log.String(), "because it was ill") {
		t.Errorf("its log is %q, %v", log.String(), err)
	}
}

func suiteCrash(t *testing.T, s suite) {
	p := s.place(t)
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	i := p.wait(1, 0, cd.Healthy)
	at := p.mark()
	if _, err := p.get(i, "/die"); err == nil {
		t.Fatal("it lives")
	}
	dead := p.waitFrom(at, 1, 0, cd.Exited)
	if !strings.HasPrefix(dead.Reason, "ended with exit code 7:\n") || !strings.HasSuffix(dead.Reason, "told to die") {
		t.Errorf("reason %q", dead.Reason)
	}
	back := p.waitFrom(at, 1, 0, cd.Healthy)
	if back.Restarts != 1 || back.Reason != "" || !strings.HasPrefix(p.page(back, "/"), "one ") {
		t.Errorf("came back as %+v", back)
	}
}

func suiteDrains(t *testing.T, s suite) {
	p := s.place(t)
	done := make(chan struct{})
	p.drain = func(ctx context.Context, addr string) error {
		select {
		case <-done:
		case <-ctx.Done():
		}
		return nil
	}
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	i := p.wait(1, 0, cd.Healthy)
	at := p.mark()
	p.target.Ensure(nil)
	p.waitDrained(i.Addr, 1)
	p.page(i, "/") // while something is under way it answers
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	p.page(i, "/")
	p.target.Ensure(nil)
	p.waitDrained(i.Addr, 2)
	if p.mark() != at {
		t.Errorf("told of %s", history(p.told[at:]))
	}
	close(done)
	p.waitFrom(at, 1, 0, cd.Stopped)
}

// waitDrained waits until the target has asked so often whether an address is drained.
func (p *place) waitDrained(addr string, times int) {
	p.t.Helper()
	p.poll("the target drains "+addr, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		n := 0
		for _, a := range p.drained {
			if a == addr {
				n++
			}
		}
		return n >= times
	})
}

// latest is what was told last of an instance.
func (p *place) latest(release cd.ReleaseID, index int) (i cd.Instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.told {
		if o.release == release && o.Instance.Index == index {
			i = o.Instance
		}
	}
	return i
}

// poll waits for a condition that nobody tells of.
func (p *place) poll(what string, is func() bool) {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(patience); !is(); {
		select {
		case <-tick.C:
		case <-limit:
			p.t.Fatalf("waited until %s", what)
		}
	}
}

func suiteStubborn(t *testing.T, s suite) {
	p := s.place(t)
	r := appRevision("one", "APP_STUBBORN=yes")
	r.Grace = 300 * time.Millisecond
	p.target.Ensure([]Wanted{wanted(1, r)})
	i := p.wait(1, 0, cd.Healthy)
	p.target.Ensure(nil)
	p.wait(1, 0, cd.Stopped)
	if _, err := p.get(i, "/"); err == nil {
		t.Error("it answers after its end")
	}
	p.logs(1, "got SIGTERM")
}

func suiteTakenOver(t *testing.T, s suite) {
	p := s.place(t)
	all := []Wanted{wanted(1, appRevision("one")), wanted(2, appRevision("two")), wanted(3, appRevision("three", "APP_HEALTH=never"))}
	p.target.Ensure(all)
	one, two := p.wait(1, 0, cd.Healthy), p.wait(2, 0, cd.Healthy)
	p.wait(3, 0, cd.Starting)
	before := p.page(one, "/")
	p.close()
	if got := p.page(one, "/"); got != before {
		t.Errorf("without a target it answers %q, before %q", got, before)
	}
	at := p.mark()
	p.reopen()
	p.target.Ensure([]Wanted{all[0], all[2]})
	if i := p.waitFrom(at, 1, 0, cd.Healthy); i.Addr != one.Addr || i.Restarts != one.Restarts {
		t.Errorf("taken over as %+v, was %+v", i, one)
	}
	if one.Restarts > 0 {
		t.Errorf("it did not start at once: %s", history(p.told[:at]))
	}
	if got := p.page(one, "/"); got != before {
		t.Errorf("taken over it answers %q, before %q", got, before)
	}
	p.waitFrom(at, 3, 0, cd.Starting)
	p.waitFrom(at, 2, 0, cd.Stopped)
	if _, err := p.get(two, "/"); err == nil {
		t.Error("what is not wanted any more answers")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.ContainsFunc(p.told[at:], func(o told) bool { return o.release == 1 && o.Instance.State != cd.Healthy }) {
		t.Errorf("one that was healthy all the time: %s", history(p.told[at:]))
	}
}

func suiteRun(t *testing.T, s suite) {
	p := s.place(t)
	p.secrets = map[string]string{"TOKEN": "s3cr3t-value"}
	r := appRevision("one", "PLAIN=x")
	r.Secrets = map[string]string{"TOKEN": "v1"}
	var out syncBuffer
	if err := p.target.Run(p.ctx, wanted(1, r), []string{"./bin/app", "print", "PLAIN", "TOKEN"}, &out); err != nil || out.String() != "PLAIN=x\nTOKEN=***\n" {
		t.Errorf("a hook: %v, %q", err, out.String())
	}
	r.Env["APP_EXIT"] = "4"
	err := p.target.Run(p.ctx, wanted(1, r), []string{"./bin/app", "print"}, io.Discard)
	if exit := (*sandbox.ExitError)(nil); !errors.As(err, &exit) || exit.Code != 4 {
		t.Errorf("a hook that fails: %v", err)
	}
	p.mu.Lock()
	p.secrets = nil
	p.mu.Unlock()
	if err := p.target.Run(p.ctx, wanted(1, r), []string{"true"}, io.Discard); err == nil || !strings.Contains(err.Error(), "the vault is closed") {
		t.Errorf("without its secrets: %v", err)
	}
}

func suiteRunStopped(t *testing.T, s suite) {
	p := s.place(t)
	ctx, cancel := context.WithCancel(p.ctx)
	out := syncBuffer{wake: func(text string) {
		if strings.Contains(text, "listening") {
			cancel()
		}
	}}
	r := appRevision("one", "APP_STUBBORN=yes")
	r.Grace = 200 * time.Millisecond
	err := p.target.Run(ctx, wanted(1, r), []string{"./bin/app"}, &out)
	if !errors.Is(err, context.Canceled) || !strings.Contains(out.String(), "got SIGTERM") {
		t.Errorf("a hook that lasts: %v, %q", err, out.String())
	}
}

func suiteLogs(t *testing.T, s suite) {
	p := s.place(t)
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	i := p.wait(1, 0, cd.Healthy)
	if _, err := p.post(i, "/say", "first\nsecond\nthird\n"); err != nil {
		t.Fatal(err)
	}
	p.logs(1, "third")
	var out syncBuffer
	if err := p.target.Logs(p.ctx, p.named(1), 0, 2, false, &out); err != nil || out.String() != "second\nthird\n" {
		t.Errorf("the last two lines: %v, %q", err, out.String())
	}
	ctx, cancel := context.WithCancel(p.ctx)
	follow := syncBuffer{wake: func(text string) {
		if strings.Contains(text, "fifth\n") {
			cancel()
		}
	}}
	following := make(chan error, 1)
	go func() { following <- p.target.Logs(ctx, p.named(1), 0, 1, true, &follow) }()
	p.poll("it follows", func() bool { return follow.String() == "third\n" })
	if _, err := p.post(i, "/say", "fourth\nfifth\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-following; !errors.Is(err, context.Canceled) || follow.String() != "third\nfourth\nfifth\n" {
		t.Errorf("followed: %v, %q", err, follow.String())
	}
	if err := p.target.Logs(p.ctx, p.named(1), 1, 2, false, io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("logs of an instance that never was: %v", err)
	}
}

func suiteLogsGone(t *testing.T, s suite) {
	p := s.place(t)
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	p.wait(1, 0, cd.Healthy)
	following := make(chan error, 1)
	var follow syncBuffer
	go func() { following <- p.target.Logs(p.ctx, p.named(1), 0, 10, true, &follow) }()
	p.poll("it follows", func() bool { return strings.Contains(follow.String(), "listening as one\n") })
	p.target.Ensure(nil)
	p.wait(1, 0, cd.Stopped)
	if err := <-following; err != nil || !strings.Contains(follow.String(), "got SIGTERM\n") {
		t.Errorf("followed to the end: %v, %q", err, follow.String())
	}
	p.logs(1, "got SIGTERM")
}

func suiteNoArtifact(t *testing.T, s suite) {
	p := s.place(t)
	p.secrets = map[string]string{}
	r := appRevision("one")
	r.Artifact = "sha256:missing"
	p.target.Ensure([]Wanted{wanted(1, r)})
	if i := p.wait(1, 0, cd.Exited); !strings.Contains(i.Reason, "no such artifact") {
		t.Errorf("reason %q", i.Reason)
	}
}

func suiteSeenFails(t *testing.T, s suite) {
	p := s.place(t)
	p.mu.Lock()
	p.seenFail = 3
	p.mu.Unlock()
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	p.wait(1, 0, cd.Healthy)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.told[0].Instance.State != cd.Starting {
		t.Errorf("told %s", history(p.told))
	}
}
