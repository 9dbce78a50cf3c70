//go:build linux

package deploy

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/imagetest"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// each runs a test of faults in both kinds of machines.
func each(t *testing.T, test func(t *testing.T, m *machines)) {
	t.Run("isolated", func(t *testing.T) { t.Parallel(); test(t, isolated(t)) })
	t.Run("plain", func(t *testing.T) { t.Parallel(); test(t, plainly(t)) })
}

// elsewhere is what a target in a process of its own is told.
type elsewhere struct {
	Dir, Machines string
	Plain         bool
	Wanted        []Wanted
}

// targetMain is the main function of a target in a process of its own: it reads what it is to want, one JSON value after
// the other, and writes what it sees.
func targetMain() int {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var e elsewhere
	if err := in.Decode(&e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	layers, err := layer.Open(filepath.Join(e.Machines, "layers"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o := HostOptions{Dir: e.Dir, Layers: layers, Options: Options{
		Artifact: artifact,
		Seen:     func(_ context.Context, r cd.ReleaseID, o cd.Observed) error { return out.Encode(told{r, o}) },
		Secrets:  func(context.Context, cd.ReleaseID, string) (map[string]string, error) { return nil, nil },
	}}
	if e.Plain {
		o.Plain, o.Provider, o.Layers = e.Machines, sandbox.NewNone(e.Machines), nil
	} else if o.Provider, err = sandbox.NewHost(layers, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	h, err := NewHost(context.Background(), o)
	for ; err == nil; err = in.Decode(&e) {
		h.Ensure(e.Wanted)
	}
	return 0
}

// away is a target in a process of its own.
type away struct {
	t    *testing.T
	cmd  *exec.Cmd
	e    elsewhere
	in   *json.Encoder
	said chan told
}

func (m *machines) away(t *testing.T, dir string, w ...Wanted) *away {
	t.Helper()
	if _, err := appFile(); err != nil { // for it too
		t.Fatal(err)
	}
	a := &away{t: t, e: elsewhere{Dir: dir, Machines: m.dir, Plain: m.plain != "", Wanted: w}, said: make(chan told, 1000)}
	a.cmd = exec.Command("/proc/self/exe", "target")
	a.cmd.Env = append(os.Environ(), "PENSTOCK_TEST_APP="+appPath())
	a.cmd.Stderr = os.Stderr
	in, err := a.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.kill)
	a.in = json.NewEncoder(in)
	if err := a.in.Encode(a.e); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var o told
			if json.Unmarshal(lines.Bytes(), &o) == nil {
				a.said <- o
			}
		}
	}()
	return a
}

// until waits until it has said something of a state.
func (a *away) until(state cd.State) {
	a.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case o, ok := <-a.said:
			if !ok {
				a.t.Fatal("the target has ended")
			}
			if o.Instance.State == state {
				return
			}
		case <-limit:
			a.t.Fatalf("waited for %s", state)
		}
	}
}

func (a *away) want(w ...Wanted) {
	a.t.Helper()
	a.e.Wanted = w
	if err := a.in.Encode(a.e); err != nil {
		a.t.Fatal(err)
	}
}

// kill kills the process, as kill -9 does.
func (a *away) kill() {
	if a.cmd.ProcessState == nil {
		_ = a.cmd.Process.Kill()
		_ = a.cmd.Wait()
	}
}

// processes are those of this host with a variable in their environment.
func processes(variable string) (pids []int) {
	names, _ := os.ReadDir("/proc")
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		environ, bad := os.ReadFile("/proc/" + n.Name() + "/environ")
		if err == nil && bad == nil && bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+variable+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unique is a name that nothing else on this host has.
func unique(t *testing.T) string {
	return strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()) + "-" + newDirID()
}

// homes are the directories of instances in a place.
func homes(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(dir, e.Name(), specFile)); err == nil {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names
}

// TestServerKilled kills the process of a target at all the moments of an instance's life. Another takes over: there is one
// program and no more, and it can be ended.
func TestServerKilled(t *testing.T) {
	each(t, func(t *testing.T, m *machines) {
		for _, c := range []struct {
			name string
			die  func(a *away)
		}{
			{"at once", func(*away) {}},
			{"starting", func(a *away) { a.until(cd.Starting) }},
			{"starting 5ms", func(a *away) { a.until(cd.Starting); <-time.After(5 * time.Millisecond) }},
			{"starting 20ms", func(a *away) { a.until(cd.Starting); <-time.After(20 * time.Millisecond) }},
			{"starting 50ms", func(a *away) { a.until(cd.Starting); <-time.After(50 * time.Millisecond) }},
			{"starting 100ms", func(a *away) { a.until(cd.Starting); <-time.After(100 * time.Millisecond) }},
			{"healthy", func(a *away) { a.until(cd.Healthy) }},
			{"stopping", func(a *away) { a.until(cd.Healthy); a.want() }},
			{"stopping 5ms", func(a *away) { a.until(cd.Healthy); a.want(); <-time.After(5 * time.Millisecond) }},
			{"stopping 50ms", func(a *away) { a.until(cd.Healthy); a.want(); <-time.After(50 * time.Millisecond) }},
			{"stopped", func(a *away) { a.until(cd.Healthy); a.want(); a.until(cd.Stopped) }},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				name := unique(t)
				p := m.suite().place(t)
				p.close()
				w := wanted(1, appRevision(name))
				a := m.away(t, p.dir, w)
				c.die(a)
				a.kill()
				p.reopen()
				p.target.Ensure([]Wanted{w})
				p.wait(1, 0, cd.Healthy)
				p.poll("it answers", func() bool { // what was asked before the kill may end it once more, and then it is elsewhere
					got, err := p.get(p.latest(1, 0), "/")
					return err == nil && strings.HasPrefix(got, name+" ")
				})
				p.poll("one program runs", func() bool { return len(processes("APP_NAME="+name)) == 1 })
				p.target.Ensure(nil)
				p.waitFrom(p.mark()-1, 1, 0, cd.Stopped)
				p.poll("no program runs", func() bool { return len(processes("APP_NAME="+name)) == 0 })
				p.poll("nothing is left", func() bool { return len(homes(t, p.dir)) == 0 })
			})
		}
	})
}

// TestKeeperKilled kills keepers: the program does not outlive its own, and comes again with secrets that are asked for
// again.
func TestKeeperKilled(t *testing.T) {
	each(t, func(t *testing.T, m *machines) {
		name := unique(t)
		p := m.suite().place(t)
		p.secrets = map[string]string{"TOKEN": "first"}
		r := appRevision(name)
		r.Secrets = map[string]string{"TOKEN": "1"}
		p.target.Ensure([]Wanted{wanted(1, r)})
		p.wait(1, 0, cd.Healthy)
		before := processes("APP_NAME=" + name)
		p.mu.Lock()
		p.secrets = map[string]string{"TOKEN": "second"}
		p.mu.Unlock()
		at := p.mark()
		if err := killKeeper(homes(t, p.dir)[0]); err != nil {
			t.Fatal(err)
		}
		dead := p.waitFrom(at, 1, 0, cd.Exited)
		if !strings.Contains(dead.Reason, "keeper was killed") || dead.Restarts != 1 {
			t.Errorf("told %+v", dead)
		}
		p.poll("the program has ended with its keeper", func() bool {
			now := processes("APP_NAME=" + name)
			return len(now) == 0 || len(before) == 1 && now[0] != before[0]
		})
		i := p.waitFrom(at, 1, 0, cd.Healthy)
		if got := p.page(i, "/?env=TOKEN"); !strings.HasSuffix(got, "TOKEN=second\n") {
			t.Errorf("it came again with %q", got)
		}

		// And while no target looks.
		p.close()
		if err := killKeeper(homes(t, p.dir)[0]); err != nil {
			t.Fatal(err)
		}
		at = p.mark()
		p.reopen()
		p.target.Ensure([]Wanted{wanted(1, r)})
		if dead := p.waitFrom(at, 1, 0, cd.Exited); dead.Restarts != 2 {
			t.Errorf("told %+v", dead)
		}
		p.page(p.waitFrom(at, 1, 0, cd.Healthy), "/")
		p.poll("one program runs", func() bool { return len(processes("APP_NAME="+name)) == 1 })
	})
}

// TestMachineReboots kills a keeper and opens the target of a machine that has been started anew: the instance is not told to have
// ended, which would take a release back that is watched, but that it is well again, or that it does not come up.
func TestMachineReboots(t *testing.T) {
	each(t, func(t *testing.T, m *machines) {
		boot := "one"
		s := m.suite()
		s.open = func(t *testing.T, dir string, o Options) Target {
			t.Helper()
			with := m.options(dir, o, nil)
			with.boot = boot
			h, err := NewHost(t.Context(), with)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		p := s.place(t)
		w := wanted(1, appRevision(unique(t)))
		p.target.Ensure([]Wanted{w})
		first := p.wait(1, 0, cd.Healthy)
		reboot := func(to string) cd.Instance {
			t.Helper()
			p.close()
			if err := killKeeper(homes(t, p.dir)[0]); err != nil {
				t.Fatal(err)
			}
			p.poll("the keeper has gone", func() bool { return !alive(homes(t, p.dir)[0]) })
			at := p.mark()
			boot = to
			p.reopen()
			p.target.Ensure([]Wanted{w})
			return p.until(at, "how it is", func(told) bool { return true })
		}
		again := reboot("two")
		if again.State != cd.Healthy || again.Restarts != first.Restarts {
			t.Errorf("after a new start of the machine it is told to be %+v, and was %+v", again, first)
		}
		p.page(again, "/")
		if dead := reboot("two"); dead.State != cd.Exited || dead.Restarts != first.Restarts+1 {
			t.Errorf("killed in a machine that runs on, it is told to be %+v", dead)
		}
		p.waitFrom(p.mark()-1, 1, 0, cd.Healthy)
		w.Health.Retries, w.Health.Timeout = 2, 100*time.Millisecond
		w.Revision.Env["APP_HEALTH"] = "hang"
		if ill := reboot("three"); ill.State != cd.Ill {
			t.Errorf("it does not come up with its machine and is told to be %+v", ill)
		}
	})
}

// TestWardenKilled kills the process that makes a keeper's machines: the program comes again in a machine of another one.
func TestWardenKilled(t *testing.T) {
	t.Parallel()
	p := isolated(t).suite().place(t)
	p.target.Ensure([]Wanted{wanted(1, appRevision(unique(t)))})
	p.wait(1, 0, cd.Healthy)
	at := p.mark()
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", keeperOf(t, homes(t, p.dir)[0])))
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, name := range children {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
				t.Fatalf("kill %q: %v", field, err)
			}
			killed++
		}
	}
	if killed == 0 {
		t.Fatal("the keeper has no children")
	}
	p.waitFrom(at, 1, 0, cd.Exited)
	p.page(p.waitFrom(at, 1, 0, cd.Healthy), "/")
}

func keeperOf(t *testing.T, home string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(home, lockFile))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestKeeperHangs stops a keeper, so that it answers nobody. It is killed when its instance is to end.
func TestKeeperHangs(t *testing.T) {
	t.Parallel()
	m := isolated(t)
	p := m.suite().place(t)
	r := appRevision(unique(t))
	r.Grace = time.Millisecond
	p.target.Ensure([]Wanted{wanted(1, r)})
	p.wait(1, 0, cd.Healthy)
	if err := syscall.Kill(keeperOf(t, homes(t, p.dir)[0]), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.target.Ensure(nil)
	p.wait(1, 0, cd.Stopped)
	p.poll("no program runs", func() bool { return len(processes("APP_NAME="+r.ID)) == 0 })
}

// TestSystemStops is when the system ends: every process gets SIGTERM.
func TestSystemStops(t *testing.T) {
	t.Parallel()
	p := isolated(t).suite().place(t)
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	p.wait(1, 0, cd.Healthy)
	at := p.mark()
	text, err := os.ReadFile(filepath.Join(homes(t, p.dir)[0], lockFile))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || syscall.Kill(pid, syscall.SIGTERM) != nil {
		t.Fatalf("end the keeper: %q, %v", text, err)
	}
	if i := p.waitFrom(at, 1, 0, cd.Exited); i.Reason != "it was stopped from outside" {
		t.Errorf("reason %q", i.Reason)
	}
	p.waitFrom(at, 1, 0, cd.Healthy)
	p.logs(1, "got SIGTERM")
}

// TestHalfMade has a target begin among what others left halfway.
func TestHalfMade(t *testing.T) {
	t.Parallel()
	m := isolated(t)
	p := m.suite().place(t)
	p.close()
	for name, file := range map[string]string{"empty": "", "bad": "{", "binary": "\x00\xff"} {
		dir := filepath.Join(p.dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if file != "" {
			if err := os.WriteFile(filepath.Join(dir, specFile), []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	twice := filepath.Join(p.dir, "twice")
	for _, dir := range []string{twice, twice + "2"} {
		spec := instanceSpec{Release: 1, Service: "web", Program: program{Revision: appRevision("one")}}
		if err := errors.Join(os.Mkdir(dir, 0o700), writeJSON(filepath.Join(dir, specFile), spec)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.layers.SetRef(layerRef+"lost", mustAdd(t, m)); err != nil {
		t.Fatal(err)
	}
	p.reopen()
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	p.page(p.wait(1, 0, cd.Healthy), "/")
	p.poll("one directory is left", func() bool { return len(homes(t, p.dir)) == 1 })
	if _, err := m.layers.Ref(layerRef + "lost"); !errors.Is(err, layer.ErrNotExist) {
		t.Errorf("layers are kept for nobody: %v", err)
	}
}

func mustAdd(t *testing.T, m *machines) layer.ID {
	t.Helper()
	scratch, err := m.layers.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Release()
	dir := filepath.Join(scratch.Dir(), "x")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	id, err := m.layers.Add(dir, layer.Layer{Owner: sandbox.Owner()})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestOneTarget has a second target wait for the first.
func TestOneTarget(t *testing.T) {
	m := plainly(t)
	p := m.suite().place(t)
	ctx, cancel := context.WithCancel(p.ctx)
	cancel()
	if _, err := NewHost(ctx, m.options(p.dir, p.options(), nil)); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "another server looks after") {
		t.Errorf("a second target: %v", err)
	}
	second := make(chan error, 1)
	go func() {
		h, err := NewHost(p.ctx, m.options(p.dir, p.options(), nil))
		if err == nil {
			err = h.Close()
		}
		second <- err
	}()
	p.close()
	if err := <-second; err != nil {
		t.Errorf("after the first has let go: %v", err)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	if _, err := NewHost(p.ctx, m.options(long, p.options(), nil)); err == nil || !strings.Contains(err.Error(), "too long a path") {
		t.Errorf("in a long path: %v", err)
	}
}

// TestSecretsAreNowhere looks for a secret in all files and in all that /proc shows but the program's own environment.
func TestSecretsAreNowhere(t *testing.T) {
	each(t, func(t *testing.T, m *machines) {
		secret := "s3cr3t-" + newDirID()
		name := unique(t)
		p := m.suite().place(t)
		p.secrets = map[string]string{"TOKEN": secret, "LINES": "first-" + secret + "\nsecond-" + secret}
		r := appRevision(name, "APP_HEALTH=")
		r.Secrets = map[string]string{"TOKEN": "1", "LINES": "1"}
		p.target.Ensure([]Wanted{wanted(1, r)})
		i := p.wait(1, 0, cd.Healthy)
		if _, err := p.post(i, "/say", secret+" and second-"+secret+"\n"); err != nil {
			t.Fatal(err)
		}
		p.logs(1, "*** and ***")
		if _, err := p.get(i, "/die"); err == nil {
			t.Fatal("it lives")
		}
		p.waitFrom(p.mark(), 1, 0, cd.Healthy)
		for _, dir := range []string{p.dir, m.dir} {
			if found := search(t, dir, secret); len(found) > 0 {
				t.Errorf("the secret is in %v", found)
			}
		}
		own := processes("APP_NAME=" + name)
		names, err := os.ReadDir("/proc")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			pid, err := strconv.Atoi(n.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			for _, file := range []string{"cmdline", "environ"} {
				text, err := os.ReadFile(filepath.Join("/proc", n.Name(), file))
				if err == nil && bytes.Contains(text, []byte(secret)) && !(file == "environ" && len(own) == 1 && pid == own[0]) {
					t.Errorf("the secret is in /proc/%d/%s", pid, file)
				}
			}
		}
	})
}

// search finds the regular files below a directory that contain a text.
func search(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !e.Type().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		files++
		data, err := os.ReadFile(name)
		if err == nil && bytes.Contains(data, []byte(text)) {
			found = append(found, name)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("search %s: %d files, %v", dir, files, err)
	}
	return found
}

// TestDiskFull runs an instance on a disk without room: it serves, and what it says is lost and counted.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	m := isolated(t)
	p := m.suite().place(t)
	p.close()
	if err := syscall.Mount("none", p.dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("a small disk can not be made here: %v", err)
	}
	t.Cleanup(func() {
		p.end() // while the disk is there
		if err := syscall.Unmount(p.dir, 0); err != nil {
			t.Error(err)
		}
	})
	p.reopen()
	p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
	i := p.wait(1, 0, cd.Healthy)
	if _, err := p.post(i, "/say?lines=3000", ""); err != nil {
		t.Fatal(err)
	}
	if got := p.page(i, "/"); !strings.HasPrefix(got, "one ") {
		t.Errorf("it answers %q", got)
	}
	at := p.mark()
	if _, err := p.get(i, "/die"); err == nil {
		t.Fatal("it lives")
	}
	if i := p.waitFrom(at, 1, 0, cd.Exited); !strings.HasSuffix(i.Reason, "told to die") {
		t.Errorf("reason %q", i.Reason)
	}
	p.waitFrom(at, 1, 0, cd.Healthy)
	two := wanted(2, appRevision("two"))
	p.target.Ensure([]Wanted{wanted(1, appRevision("one")), two})
	if i := p.wait(2, 0, cd.Exited); !strings.Contains(i.Reason, "no space left on device") {
		t.Errorf("a second one: %q", i.Reason)
	}
	if err := syscall.Mount("none", p.dir, "tmpfs", syscall.MS_REMOUNT, "size=10m"); err != nil {
		t.Fatal(err)
	}
	p.page(p.wait(2, 0, cd.Healthy), "/")
	if _, err := p.post(p.waitFrom(at, 1, 0, cd.Healthy), "/say", "room again\n"); err != nil {
		t.Fatal(err)
	}
	if got := p.logs(1, "room again"); !strings.Contains(got, "lines were lost") {
		t.Errorf("the log does not say that lines are missing: %s", got)
	}
}

// TestImage runs an image with a user, an environment, a directory and an entrypoint of its own.
func TestImage(t *testing.T) {
	t.Parallel()
	m := isolated(t)
	if _, err := appFile(); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(appPath())
	if err != nil {
		t.Fatal(err)
	}
	img, err := imagetest.New("app:1000").File("/bin/app", string(program), 0o755).Load(t.Context(), m.images.Store, "test.example/shop:1", v1.Config{
		User: "app", WorkingDir: "/srv/shop", Env: []string{"PATH=/bin", "APP_NAME=of the image", "FROM_IMAGE=yes", "PLAIN=image"},
		Entrypoint: []string{"/bin/sh", "-c", `id -un; exec "$0" "$@"`}, Cmd: []string{"app"},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := m.suite().place(t)
	r := cd.Revision{ID: "one", Image: img.Name, Port: 80, Env: map[string]string{"PLAIN": "revision"}}
	both := cd.Revision{ID: "two", Image: img.Name, Artifact: appDigest(), Command: []string{"/app/bin/app"}, Dir: "bin", Port: 80}
	missing := cd.Revision{ID: "three", Image: "127.0.0.1:1/nothing:here", Port: 80}
	p.target.Ensure([]Wanted{wanted(1, r), wanted(2, both), wanted(3, missing)})
	i := p.wait(1, 0, cd.Healthy)
	if got := p.page(i, "/?env=FROM_IMAGE&env=PLAIN&env=PORT"); !strings.HasPrefix(got, "of the image ") || !strings.HasSuffix(got, " /srv/shop\nFROM_IMAGE=yes\nPLAIN=revision\nPORT=80\n") {
		t.Errorf("it answers %q", got)
	}
	p.logs(1, "app")
	if got := p.page(p.wait(2, 0, cd.Healthy), "/"); !strings.HasSuffix(got, " /app/bin\n") {
		t.Errorf("with an artifact it answers %q", got)
	}
	if i := p.wait(3, 0, cd.Exited); !strings.Contains(i.Reason, "127.0.0.1:1/nothing:here") {
		t.Errorf("an image that is missing: %q", i.Reason)
	}
	var out syncBuffer
	if err := p.target.Run(p.ctx, wanted(1, r), []string{"pwd"}, &out); err != nil || !strings.Contains(out.String(), "/srv/shop\n") {
		t.Errorf("a hook: %v, %q", err, out.String())
	}
}

// TestOtherPort says where a program listens that listens elsewhere.
func TestOtherPort(t *testing.T) {
	t.Parallel()
	p := isolated(t).suite().place(t)
	w := wanted(1, appRevision("one", "APP_PORT=3000"))
	w.Health.Retries = 20
	p.target.Ensure([]Wanted{w})
	if i := p.wait(1, 0, cd.Ill); !strings.HasPrefix(i.Reason, "nothing listens on port 8000, after ") || !strings.HasSuffix(i.Reason, "tries; it listens on 3000") {
		t.Errorf("reason %q", i.Reason)
	}
}

// TestMemory has a program use more memory than it may.
func TestMemory(t *testing.T) {
	t.Parallel()
	m := isolated(t)
	if sb, err := m.provider.Open(t.Context(), sandbox.Spec{Name: "limited", Repo: "x", Limits: sandbox.Limits{Memory: 1 << 30}}); err != nil {
		t.Fatal(err)
	} else {
		notes := sb.Info().Notes
		sb.Close(t.Context())
		if len(notes) > 0 {
			t.Skipf("memory can not be limited here: %v", notes)
		}
	}
	p := m.suite().place(t)
	r := appRevision("one")
	r.Memory = 64 << 20
	p.target.Ensure([]Wanted{wanted(1, r)})
	i := p.wait(1, 0, cd.Healthy)
	at := p.mark()
	if _, err := p.get(i, "/eat?bytes=200000000"); err == nil {
		t.Fatal("it lives")
	}
	if i := p.waitFrom(at, 1, 0, cd.Exited); !strings.HasPrefix(i.Reason, "ended by signal: killed: it may use 64 MiB of memory") {
		t.Errorf("reason %q", i.Reason)
	}
	p.waitFrom(at, 1, 0, cd.Healthy)
}

// TestHostileArtifacts are archives that would write elsewhere, or without end.
func TestHostileArtifacts(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	for name, archive := range map[string][]*tar.Header{
		"dots":     {{Name: "../../evil", Typeflag: tar.TypeReg, Mode: 0o644}},
		"absolute": {{Name: outside + "/evil", Typeflag: tar.TypeReg, Mode: 0o644}},
		"link":     {{Name: "link", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "link/evil", Typeflag: tar.TypeReg, Mode: 0o644}},
		"hardlink": {{Name: "link", Typeflag: tar.TypeLink, Linkname: "../../../etc/passwd"}},
		"device":   {{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 8}},
		"pipe":     {{Name: "pipe", Typeflag: tar.TypeFifo}},
	} {
		each(t, func(t *testing.T, m *machines) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range archive {
				if err := w.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			s := m.suite()
			p := s.place(t)
			p.close()
			o := p.options()
			o.Artifact = func(context.Context, string) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(b.Bytes())), nil
			}
			p.target = s.open(t, p.dir, o)
			p.target.Ensure([]Wanted{wanted(1, appRevision("one"))})
			if i := p.wait(1, 0, cd.Exited); i.Reason == "" || strings.Contains(i.Reason, "exit code") {
				t.Errorf("%s: %q", name, i.Reason)
			}
			if _, err := os.Lstat(outside); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: it wrote outside: %v", name, err)
			}
		})
	}
}

const ordinaryID = 54321

// TestOrdinaryUser runs the suite again as a user without privileges, if it runs with any itself.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // all the others are
	}
	if _, err := appFile(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "ordinary-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := layer.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	app := filepath.Join(dir, "app")
	program, err := os.ReadFile(appPath())
	if err == nil {
		err = errors.Join(os.WriteFile(app, program, 0o755), os.Chown(dir, ordinaryID, ordinaryID))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHost$|^TestPlain$|^TestKeeperKilled$|^TestOtherPort$", "-test.v=true", "-test.timeout=5m")
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir, "PENSTOCK_TEST_APP=" + app}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryID, Gid: ordinaryID}, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	}
}
