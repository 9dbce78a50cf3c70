//go:build linux

package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/layer"
)

// sleepMark is a number of seconds that a test knows its processes by; busybox takes no longer ones.
func sleepMark(n int) string { return fmt.Sprintf("%d%08d", n, time.Now().UnixNano()%1e8) }

func dockerOpen(t *testing.T, p *Docker, spec Spec) Sandbox {
	t.Helper()
	return suite{provider: p}.open(t, spec)
}

// plain runs a script in a container that knows nothing of a job.
func plain(t *testing.T, sb Sandbox, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := sb.Exec(t.Context(), Command{Args: args, Env: []string{"PATH=" + sb.Info().Path}, Stdout: &out, Stderr: &out})
	return out.String(), err
}

func expectPlain(t *testing.T, sb Sandbox, want string, args ...string) {
	t.Helper()
	if got, err := plain(t, sb, args...); err != nil || got != want {
		t.Errorf("%s: got %q, %v, want %q", args, got, err, want)
	}
}

func dockerMachines(t *testing.T, d *daemon) {
	p := d.provider(t, DockerOptions{Network: "none"})
	m := dockerOpen(t, p, Spec{Name: "build-1", Repo: "repo"})
	expect(t, m, "cat /etc/hostname; id -u; echo ${FROM_IMAGE-none}; grep -ac init /proc/1/cmdline", "build-1\n0\nnone\n1\n")
	if i := m.Info(); i.Provider != "docker" || i.OS != "Linux" || i.Workspace != "/__w/repo/repo" || len(i.Notes) != 0 {
		t.Errorf("info: %+v", i)
	}
	for user, want := range map[string]string{"worker": "1234 1234\n", "1234:5": "1234 5\n", "77": "77 0\n", "": "0 0\n"} {
		var out bytes.Buffer
		c := command(m, "echo $(id -u) $(id -g)", &out)
		c.User = user
		if err := m.Exec(t.Context(), c); err != nil || out.String() != want {
			t.Errorf("user %q: got %q, %v", user, out.String(), err)
		}
	}
	if err := m.Exec(t.Context(), Command{Args: []string{"true"}, Env: environ(m), User: "nobody-here"}); err == nil || !strings.Contains(err.Error(), "nobody-here") {
		t.Errorf("unknown user: %v", err)
	}
	dockerEnvironment(t, m)
	expect(t, m, "grep -c ' /run/runner tmpfs ' /proc/mounts", "1\n")
	for spec, want := range map[*Spec]string{
		{Name: "a", Repo: "r", From: "0123"}:                             "snapshot",
		{Name: "a", Repo: "r", Image: Image{Layers: []layer.ID{"0123"}}}: ErrNoImages.Error(),
		{Name: "a", Repo: "r", Image: Image{Ref: "no image"}}:            "no image",
	} {
		if sb, err := p.Open(t.Context(), *spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v", spec, sb, err)
		}
	}
	p.o.Image = ""
	if _, err := p.Open(t.Context(), Spec{Name: "a", Repo: "r"}); err == nil || !strings.Contains(err.Error(), "container:") {
		t.Errorf("no image: %v", err)
	}
}

// dockerEnvironment has a shell in between that must not be seen.
func dockerEnvironment(t *testing.T, m Sandbox) {
	want := []string{"PATH=" + m.Info().Path, "A=1", "INPUT_GO-VERSION=it's $HOME `x` \"q\"", "BASH_FUNC_f%%=() { echo f; }", "UID=5", "IFS=x", "SHLVL=7", "PENSTOCK_0=mine", "quo'te=1", "OPTIND=9"}
	var out bytes.Buffer
	err := m.Exec(t.Context(), Command{Args: []string{"env", "-0"}, Env: want, Stdout: &out})
	got := map[string]bool{}
	for _, kv := range strings.Split(strings.TrimSuffix(out.String(), "\x00"), "\x00") {
		if !strings.HasPrefix(kv, "PWD=") {
			got[kv] = true
		}
	}
	if err != nil || len(got) != len(want) {
		t.Errorf("environment: %q, %v", out.String(), err)
	}
	for _, kv := range want {
		if !got[kv] {
			t.Errorf("environment lacks %q: %q", kv, out.String())
		}
	}
}

// dockerNetwork gives a machine a network of its own, and has it find what this process serves there.
func dockerNetwork(t *testing.T, d *daemon) {
	p := d.provider(t, DockerOptions{})
	m := dockerOpen(t, p, Spec{Name: "one", Repo: "repo", Names: []string{"postgres", "my_cache"}})
	expect(t, m, "grep -c -e '127.0.0.1.postgres' -e '127.0.0.1.my_cache' /etc/hosts", "2\n")
	dockerLocally(t, m)
	expect(t, m, "cut() { while read -r l; do echo ${l%%:*}; done; }; tail -n +3 /proc/net/dev | cut", "lo\neth0\n")
	l, err := m.(Networked).Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.WriteString(conn, "hello\n")
			conn.Close()
		}
		served <- err
	}()
	port := l.Addr().String()[strings.LastIndexByte(l.Addr().String(), ':')+1:]
	expect(t, m, "cat < /dev/tcp/127.0.0.1/"+port, "hello\n")
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the listener outlives its machine")
	}
	if _, err := m.(Networked).Listen(t.Context(), 0); err == nil {
		t.Error("a closed machine listens")
	}
}

// dockerLocally has this process and a machine meet at a socket and at a port of the machine's.
func dockerLocally(t *testing.T, m Sandbox) {
	l, err := m.(LocalListener).ListenLocal("service.sock")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.WriteString(conn, "by a socket\n")
			conn.Close()
		}
		done <- err
	}()
	expect(t, m, "stat -c '%a %u' $FILES/service.sock", "666 0\n")
	c, err := m.(Hosting).Contain(t.Context(), Container{Name: "client", Image: Image{Ref: busyImage}, Mounts: []Mount{{Target: "/files", Source: m.Info().Files}}})
	if err != nil {
		t.Fatal(err)
	}
	expectPlain(t, c, "", "sh", "-c", "[ -S /files/service.sock ]")
	got, err := m.(*dockerLocal).d.api.ContainerInspect(t.Context(), m.(*dockerLocal).name, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	caller, err := net.Dial("unix", fmt.Sprintf("/proc/%d/root%s/service.sock", got.Container.State.Pid, m.Info().Files))
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	if text, err := io.ReadAll(caller); err != nil || string(text) != "by a socket\n" {
		t.Errorf("got %q, %v", text, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, name := range []string{"../x", "a/b", "/x", "service.sock"} {
		if l, err := m.(LocalListener).ListenLocal(name); err == nil {
			l.Close()
			t.Errorf("%s: listens", name)
		}
	}
	ready := make(chan struct{})
	go func() {
		done <- c.Exec(t.Context(), Command{Args: []string{"sh", "-c", "echo ready; echo from inside | nc -l -p 8124 127.0.0.1"}, Env: []string{"PATH=/bin"}, Stdout: &trigger{word: "ready", do: func() { close(ready) }}})
	}()
	<-ready
	var conn net.Conn
	for range 500 {
		if conn, err = m.(Dialer).Dial(t.Context(), 8124); err == nil {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if text, err := bufio.NewReader(conn).ReadString('\n'); err != nil || text != "from inside\n" {
		t.Errorf("got %q, %v", text, err)
	}
	conn.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if conn, err := m.(Dialer).Dial(t.Context(), 1); err == nil {
		conn.Close()
		t.Error("port 1 answers")
	}
}

func dockerTerminal(t *testing.T, d *daemon) {
	m := dockerOpen(t, d.provider(t, DockerOptions{Network: "none"}), Spec{Name: "one", Repo: "repo"})
	screen, terminal := openTerminal(t)
	resize(t, screen, 31, 97)
	in, keys, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer keys.Close()
	shown := &trigger{word: "first", do: func() {
		resize(t, screen, 24, 80)
		if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil {
			t.Error(err)
		}
	}}
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(struct{ io.Writer }{shown}, screen) }()
	if _, err := io.WriteString(keys, "size() { until [ \"$(stty size)\" = \"$1\" ]; do sleep 0.01; done; }; size '31 97'; [ -t 0 ] && [ -t 1 ] && echo fir''st; size '24 80'; exit 4\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	err = m.Exec(ctx, Command{Args: []string{"bash", "--norc", "-i"}, Env: append(environ(m), "PS1=> "), TTY: true, Stdin: in, Stdout: terminal})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 4 {
		t.Errorf("exit: %v", err)
	}
	terminal.Close()
	<-read
	if !strings.Contains(shown.String(), "first") || strings.Contains(shown.String(), "PENSTOCK") {
		t.Errorf("screen: %q", shown.String())
	}
}

// openTerminal gives a terminal and the file that shows it.
func openTerminal(t *testing.T) (screen, terminal *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return screen, terminal
}

func resize(t *testing.T, screen *os.File, rows, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(screen.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Error(err)
	}
}

func dockerLimits(t *testing.T, d *daemon) {
	p := d.provider(t, DockerOptions{Network: "none"})
	m := dockerOpen(t, p, Spec{Name: "one", Repo: "repo", Limits: Limits{Processes: 30, Memory: 64 << 20, CPUs: 0.5}})
	mark := sleepMark(7)
	_, err := plain(t, m, "sh", "-c", "for i in $(seq 60); do sleep "+mark+" & done") // gives up when it can start no more
	if n := len(running("sleep\x00" + mark)); n == 0 || n > 30 {
		t.Errorf("%d processes, %v", n, err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	m = dockerOpen(t, p, Spec{Name: "one", Repo: "repo", Limits: Limits{Memory: 64 << 20}})
	if _, err := shell(t, m, "x=$(yes | head -c 200000000); echo ${#x}"); err == nil {
		t.Error("200 MB were held within 64")
	}
}

// dockerRemote uses a machine as if the daemon were elsewhere: by its interface alone.
func dockerRemote(t *testing.T, d *daemon) {
	p := d.provider(t, DockerOptions{Network: "none"})
	p.remote = true
	s := suite{provider: p}
	m := s.machine(t)
	_, direct := m.(Direct)
	_, networked := m.(Networked)
	if direct || networked || len(m.Info().Notes) != 1 {
		t.Errorf("direct %v, networked %v, notes %q", direct, networked, m.Info().Notes)
	}
	s.files(t)
	expect(t, m, `cd $FILES; ln -s /etc dir; ln -s /etc/passwd link; mkfifo pipe; ln -s ../../.. up; mkdir d; ln -s ../dir d/again; echo ok`, "ok\n")
	files := m.Info().Files
	for _, name := range []string{"link", "pipe", "up", "d"} {
		if data, err := ReadFile(t.Context(), m, path.Join(files, name), 9999); err == nil {
			t.Errorf("read %s: %q", name, data)
		}
	}
	for _, name := range []string{"dir/new", "up/new", "d/again/new", "d/again/deeper/new"} {
		if err := WriteFile(t.Context(), m, path.Join(files, name), []byte("x"), 0o644); err == nil {
			t.Errorf("wrote %s", name)
		}
	}
	if err := WriteFile(t.Context(), m, path.Join(files, "link"), []byte("new"), 0o644); err != nil {
		t.Error(err)
	}
	expect(t, m, `cat $FILES/link; ls /etc/new /new 2>/dev/null; head -c 4 /etc/passwd`, "newroot")
}

// dockerContain has two containers and their machine meet on the loopback.
func dockerContain(t *testing.T, d *daemon) {
	p := d.provider(t, DockerOptions{Network: "none"})
	m := dockerOpen(t, p, Spec{Name: "one", Repo: "repo"})
	c, err := m.(Hosting).Contain(t.Context(), Container{Name: "web", Image: Image{Ref: busyImage}})
	if err != nil {
		t.Fatal(err)
	}
	if i := c.Info(); i.OS != "Linux" || i.Arch != m.Info().Arch || i.Path != "/bin" {
		t.Errorf("info: %+v", i)
	}
	expectPlain(t, c, "/\n", "sh", "-c", "pwd")
	served := make(chan error, 1)
	go func() {
		served <- c.Exec(t.Context(), Command{Args: []string{"sh", "-c", "echo from the container | nc -l -p 8123 127.0.0.1"}, Env: []string{"PATH=/bin"}})
	}()
	expect(t, m, "for i in $(seq 500); do exec 3<>/dev/tcp/127.0.0.1/8123 && break; sleep 0.01; done 2>/dev/null; cat <&3", "from the container\n")
	expect(t, m, "ls /proc/[0-9]*/cmdline | wc -l | grep -q '^[1-9]$' && echo own processes", "own processes\n")
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if _, err := plain(t, c, "true"); err == nil {
		t.Error("a closed container runs commands")
	}
	same, err := m.(Hosting).Contain(t.Context(), Container{Name: "same"})
	if err != nil {
		t.Fatal(err)
	}
	expectPlain(t, same, "worker\n", "bash", "-c", "id -un 1234")
	dockerAtOnce(t, same)
	for _, bad := range []Container{{Name: "a b", Image: Image{Ref: busyImage}}, {Name: "a", Image: Image{Layers: []layer.ID{"0123"}}}, {Name: "a", Image: Image{Ref: busyImage}, Mounts: []Mount{{Target: "relative"}}}, {Name: "a", Image: Image{Ref: busyImage}, Mounts: []Mount{{Target: "/x/.."}}}} {
		if _, err := m.(Hosting).Contain(t.Context(), bad); err == nil {
			t.Errorf("%+v: accepted", bad)
		}
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := m.(Hosting).Contain(t.Context(), Container{Name: "late", Image: Image{Ref: busyImage}}); err == nil {
		t.Error("a closed machine starts containers")
	}
}

// dockerAtOnce stops a command that would take its time.
func dockerAtOnce(t *testing.T, c Sandbox) {
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &trigger{word: "ready", do: func() { cancel(errStopped) }}
	err := c.Exec(ctx, Command{Args: []string{"bash", "-c", stubborn}, Env: []string{"PATH=" + c.Info().Path}, Stdout: out, Stop: &Ladder{}})
	if !errors.Is(err, errStopped) || out.String() != "ready\n" {
		t.Errorf("at once: %q, %v", out.String(), err)
	}
}

// dockerMounts shares directories of a machine with a container.
func dockerMounts(t *testing.T, d *daemon) {
	p := d.provider(t, DockerOptions{Network: "none"})
	m := dockerOpen(t, p, Spec{Name: "one", Repo: "repo"})
	expect(t, m, "echo work > w; mkdir -p $TMP/part/deep; echo part > $TMP/part/deep/f; echo file > $FILES/event.json; ln -s / $TMP/evil; echo ok", "ok\n")
	c, err := m.(Hosting).Contain(t.Context(), Container{Name: "tool", Image: Image{Ref: busyImage}, Mounts: []Mount{
		{Target: "/github/workspace", Source: m.Info().Workspace},
		{Target: "/part", Source: m.Info().Temp + "/part"},
		{Target: "/part-ro", Source: m.Info().Temp + "/part/deep", ReadOnly: true},
		{Target: "/github/event.json", Source: m.Info().Files + "/event.json", ReadOnly: true},
		{Target: "/made", Source: m.Info().Home + "/made/new"},
		{Target: "/all", Source: "/__w"},
		{Target: "/all-ro", Source: m.Info().Workspace, ReadOnly: true},
		{Target: "/memory", Size: 1 << 20},
	}})
	if err != nil {
		t.Fatal(err)
	}
	expectPlain(t, c, "work\npart\npart\nfile\nwork\npart\nwork\n", "cat", "/github/workspace/w", "/part/deep/f", "/part-ro/f", "/github/event.json", "/all/repo/repo/w", "/all/_temp/part/deep/f", "/all-ro/w")
	expectPlain(t, c, "ro\nro\nro\nsmall\n", "sh", "-c", `exec 2>/dev/null; cd /; echo x > /part-ro/new || echo ro; echo x > /github/event.json || echo ro; echo x > /all-ro/new || echo ro
		echo new > /github/workspace/new; echo new > /part/new; echo new > /made/new; /bin/busybox head -c 2000000 /dev/zero > /memory/f || echo small`)
	expect(t, m, "cat new $TMP/part/new $HOME/made/new/new; ls /memory 2>/dev/null; true", "new\nnew\nnew\n")
	evil := Container{Name: "tool", Image: Image{Ref: busyImage}, Mounts: []Mount{{Target: "/evil", Source: m.Info().Temp + "/evil"}}}
	if c, err = m.(Hosting).Contain(t.Context(), evil); err == nil { // newer daemons refuse
		if got, err := plain(t, c, "cat", "/evil/etc/hostname"); err == nil && got != "one\n" {
			t.Errorf("a link of the job's was followed out of the container: %q", got)
		}
	}
	for _, source := range []string{"/etc", "/", "/__w/../etc/passwd", "relative"} {
		if _, err := m.(Hosting).Contain(t.Context(), Container{Name: "tool", Image: Image{Ref: busyImage}, Mounts: []Mount{{Target: "/x", Source: source}}}); err == nil || !strings.Contains(err.Error(), "/__w") {
			t.Errorf("%s: %v", source, err)
		}
	}
}

// dockerNoShell runs commands of an image that holds nothing else.
func dockerNoShell(t *testing.T, d *daemon) {
	p := d.provider(t, DockerOptions{Network: "none"})
	m := dockerOpen(t, p, Spec{Name: "one", Repo: "repo"})
	contain := func() Sandbox {
		c, err := m.(Hosting).Contain(t.Context(), Container{Name: "bare", Image: Image{Ref: emptyImage}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := contain()
	expectPlain(t, c, "hello\n", "/echo", "hello")
	if _, err := plain(t, c, "/nothing"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/nothing") {
		t.Errorf("missing program: %v", err)
	}
	if err := c.Exec(t.Context(), Command{Args: []string{"/echo"}, Dir: "/no/dir"}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/no/dir") {
		t.Errorf("missing directory: %v", err)
	}
	var out bytes.Buffer
	if err := c.Exec(t.Context(), Command{Args: []string{"/cat"}, Stdin: strings.NewReader("in"), Stdout: &out}); err != nil || out.String() != "in" {
		t.Errorf("input: %q, %v", out.String(), err)
	}
	for _, here := range []bool{true, false} {
		c := contain()
		c.(*dockerContainer).here = here
		mark := sleepMark(8)
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- c.Exec(ctx, Command{Args: []string{"/sleep", mark}}) }()
		for range 400 {
			if len(running("/sleep\x00"+mark)) > 0 {
				break
			}
			<-time.After(10 * time.Millisecond)
		}
		cancel(errStopped)
		if err := <-stopped; !errors.Is(err, errStopped) {
			t.Errorf("stopped: %v", err)
		}
		if pids := running("/sleep\x00" + mark); len(pids) > 0 {
			t.Errorf("here %v: alive: %v", here, pids)
		}
		if _, err := plain(t, c, "/echo"); (err == nil) != here {
			t.Errorf("here %v: afterwards: %v", here, err)
		}
	}
}

// dockerOtherShell runs what the suite asks of bash in an image of another system.
func dockerOtherShell(t *testing.T, d *daemon) {
	p := d.provider(t, DockerOptions{Network: "none", Image: busyImage})
	m := dockerOpen(t, p, Spec{Name: "one", Repo: "repo"})
	for script, want := range map[string]int{"exit 3": 3, "kill -KILL $$": 137} {
		_, err := plain(t, m, "sh", "-c", script)
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != want {
			t.Errorf("%s: %v", script, err)
		}
	}
	if _, err := plain(t, m, "no-such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing program: %v", err)
	}
	dockerOdd(t, m)
	mark := sleepMark(9)
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &trigger{word: "ready", do: func() { cancel(errStopped) }}
	script := fmt.Sprintf(`trap 'echo INT' INT; trap 'echo TERM' TERM; sleep %[1]s & (sleep %[1]s & wait) & (setsid sleep %[1]s & wait) & echo ready; while :; do sleep 0.01; done`, mark)
	if err := m.Exec(ctx, Command{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}, Stdout: out, Stderr: out}); !errors.Is(err, errStopped) {
		t.Error(err)
	}
	if got, want := out.String(), "ready\nINT\nTERM\n"; !strings.HasPrefix(got, want) {
		t.Errorf("signals: got %q, want %q", got, want)
	}
	if pids := running("sleep\x00" + mark); len(pids) > 0 {
		t.Errorf("alive: %v", pids)
	}
	expectPlain(t, m, "alive\n", "sh", "-c", "echo alive")
}

func dockerOdd(t *testing.T, m Sandbox) {
	var out bytes.Buffer
	err := m.Exec(t.Context(), Command{Args: []string{"env"}, Env: []string{"PATH=/bin", "INPUT_A-B=x y", "IFS=q"}, Stdout: &out})
	if err != nil || !strings.Contains(out.String(), "INPUT_A-B=x y\n") || !strings.Contains(out.String(), "IFS=q\n") || strings.Contains(out.String(), "PENSTOCK") {
		t.Errorf("environment: %q, %v", out.String(), err)
	}
}
