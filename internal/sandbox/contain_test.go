//go:build linux

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/layer"
)

// busybox makes an image of Debian's static busybox and files (path -> content).
func busybox(t *testing.T, h *Host, files map[string]string) Image {
	t.Helper()
	scratch, err := h.layers.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { scratch.Release() })
	root := filepath.Join(scratch.Dir(), "image")
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"bin/busybox": string(program),
		"etc/passwd":  "root:x:0:0:root:/root:/bin/sh\nmaria:x:1000:100:Maria:/home/maria:/bin/sh\n",
		"etc/group":   "root:x:0:\nusers:x:100:\nwheel:x:10:root,maria\n",
	}
	for name, text := range files {
		all[name] = text
	}
	writeTree(t, root, all)
	if err := os.Chmod(filepath.Join(root, "bin/busybox"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "cat", "ls", "id", "echo", "touch", "mkdir", "rm", "hostname", "ps", "nc", "httpd", "wget", "sleep", "kill", "mount", "df", "stat", "env", "pwd", "grep", "chown", "true"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	err = filepath.WalkDir(root, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if err := os.Chmod(name, 0o755); err != nil {
				return err
			}
		}
		if h.shifted() {
			return os.Lchown(name, h.owner, h.owner)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := h.layers.Add(root, layer.Layer{Owner: h.owner})
	if err != nil {
		t.Fatal(err)
	}
	return Image{Ref: "localhost/busybox:latest", Layers: []layer.ID{id}}
}

func contain(t *testing.T, m Sandbox, c Container) Sandbox {
	t.Helper()
	sb, err := m.(Hosting).Contain(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return sb
}

// in runs a script in a container.
func in(t *testing.T, sb Sandbox, c Command, script, want string) {
	t.Helper()
	var out bytes.Buffer
	c.Args = []string{"/bin/sh", "-c", script}
	c.Stdout, c.Stderr = &out, &out
	if err := sb.Exec(t.Context(), c); err != nil || out.String() != want {
		t.Errorf("%s:\ngot  %q, %v\nwant %q", script, out.String(), err, want)
	}
}

func TestContainerIsApart(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "job", Repo: "repo", Names: []string{"db", "my_cache"}})
	c := contain(t, m, Container{Name: "db", Image: busybox(t, h, map[string]string{"etc/motd": "image\n"})})
	in(t, c, Command{}, "cat /etc/motd; hostname; pwd; id -u; echo $HOME $PATH", "image\ndb\n/\n0\n/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
	in(t, c, Command{}, "ls /usr /home 2>/dev/null; n=$(ls -d /proc/[0-9]* | grep -c .); [ $n -lt 8 ] && echo few", "few\n")
	in(t, c, Command{}, "echo x >/etc/motd; echo y >/new; rm /etc/group; cat /etc/motd /new", "x\ny\n")
	expect(t, m, "cat /new /etc/motd 2>/dev/null | grep -c '^[xy]$'; ls /etc/group; hostname", "0\n/etc/group\njob\n")
	in(t, c, Command{}, "grep -o 'db my_cache' /etc/hosts; grep -c nameserver /etc/resolv.conf; echo a >/dev/null; echo b >/dev/shm/b; cat /dev/shm/b", "db my_cache\n1\nb\n")
	expect(t, m, "getent hosts my_cache | awk '{print $1}'", "127.0.0.1\n")
}

func TestContainerHasUsers(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "job", Repo: "repo"})
	c := contain(t, m, Container{Name: "box", Image: busybox(t, h, nil)})
	groups := " 10(wheel)"
	if !h.shifted() {
		groups = "" // nobody but root is here: groups can not be had
	}
	in(t, c, Command{User: "maria"}, "id -u; id -g; echo $HOME; id -Gn | grep -o wheel; true", map[bool]string{true: "1000\n100\n/home/maria\nwheel\n", false: "1000\n100\n/home/maria\n"}[groups != ""])
	in(t, c, Command{User: "1000:10"}, "id -u; id -g", "1000\n10\n")
	in(t, c, Command{User: "777"}, "id -u; id -g; echo $HOME", "777\n0\n/\n")
	in(t, c, Command{User: "maria", Env: []string{"HOME=/elsewhere"}}, "echo $HOME; touch /tmp/mine && echo made", "/elsewhere\nmade\n")
	err := c.Exec(t.Context(), Command{Args: []string{"true"}, User: "nobody-here"})
	if err == nil || !strings.Contains(err.Error(), "unable to find user nobody-here: no matching entries in passwd file") {
		t.Errorf("unknown user: %v", err)
	}
	err = c.Exec(t.Context(), Command{Args: []string{"true"}, User: "root:no-group"})
	if err == nil || !strings.Contains(err.Error(), "unable to find group no-group") {
		t.Errorf("unknown group: %v", err)
	}
}

// TestContainerSharesTheNetwork has a server in a container answer the machine, another container and this process.
func TestContainerSharesTheNetwork(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "job", Repo: "repo", Names: []string{"web"}})
	image := busybox(t, h, map[string]string{"www/index.html": "hello\n"})
	web := contain(t, m, Container{Name: "web", Image: image})
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		done <- web.Exec(ctx, Command{Args: []string{"/bin/httpd", "-f", "-p", "80", "-h", "/www"}, Stop: &Ladder{}})
	}()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, addr string) (c net.Conn, err error) {
		for range 500 {
			if c, err = m.Dial(ctx, 80); err == nil {
				return c, nil
			}
			expect(t, m, "sleep 0.01", "")
		}
		return nil, err
	}}}
	res, err := client.Get("http://web/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if string(body) != "hello\n" {
		t.Errorf("got %q", body)
	}
	other := contain(t, m, Container{Name: "other", Image: image})
	in(t, other, Command{}, "wget -q -O - http://web/; wget -q -O - http://127.0.0.1:80/", "hello\nhello\n")
	expect(t, m, "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://localhost/\").read().decode(), end=\"\")'", "hello\n")
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the server: %v", err)
	}
	if _, err := m.Dial(t.Context(), 80); err == nil {
		t.Error("the server still answers")
	}
}

func TestContainerMounts(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "job", Repo: "repo"})
	expect(t, m, "mkdir -p /home/runner/data /home/runner/deep && echo in >/home/runner/data/file && echo one >/home/runner/single", "")
	if err := m.Mount(t.Context(), "/home/runner/deep/layer"); err != nil {
		t.Fatal(err)
	}
	expect(t, m, "echo mounted >/home/runner/deep/layer/x", "")
	c := contain(t, m, Container{Name: "box", Image: busybox(t, h, map[string]string{"data/hidden": "h"}), Mounts: []Mount{
		{Target: "/data", Source: "/home/runner/data"},
		{Target: "/data/ro", Source: "/home/runner/deep", ReadOnly: true},
		{Target: "/run/secrets/one", Source: "/home/runner/single"},
		{Target: "/made", Source: "/home/runner/not/there"},
		{Target: "/memory", Size: 1 << 20},
	}})
	in(t, c, Command{}, "cat /data/file /data/ro/layer/x /run/secrets/one; ls /data", "in\nmounted\none\nfile\nro\n")
	in(t, c, Command{}, "touch /data/ro/x 2>/dev/null || echo refused; touch /data/ro/layer/y 2>/dev/null || echo refused; echo back >/data/back; touch /made/x; touch /memory/x; df -k /memory | grep -c ' 1024 '", "refused\nrefused\n1\n")
	expect(t, m, "cat /home/runner/data/back; ls /home/runner/not/there; stat -c %u /home/runner/not/there/x", "back\nx\n0\n")
	for _, bad := range []Mount{{Target: "relative"}, {Target: "/"}, {Target: "/x", Source: "relative"}} {
		if sb, err := m.Contain(t.Context(), Container{Name: "bad", Image: busybox(t, h, nil), Mounts: []Mount{bad}}); err == nil {
			sb.Close(t.Context())
			t.Errorf("%+v was taken", bad)
		}
	}
}

// TestContainerChanges puts what a container wrote on top of its image.
func TestContainerChanges(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "job", Repo: "repo"})
	image := busybox(t, h, map[string]string{"etc/motd": "image\n", "gone": "g"})
	c := contain(t, m, Container{Name: "box", Image: image, Mounts: []Mount{{Target: "/run/secrets/deep/dir"}, {Target: "/etc/file", Source: "/etc/hostname"}}})
	in(t, c, Command{}, "echo changed >/etc/motd; rm /gone; mkdir /new; echo n >/new/n; chown 33:33 /new/n 2>/dev/null; echo secret >/run/secrets/deep/dir/s", "")
	id, err := c.(Changed).Changes(t.Context())
	if err != nil || id == "" {
		t.Fatal(id, err)
	}
	if err := c.Exec(t.Context(), Command{Args: []string{"/bin/true"}}); err == nil {
		t.Error("the container goes on")
	}
	next := image
	next.Layers = append(next.Layers[:1:1], id)
	again := contain(t, m, Container{Name: "again", Image: next})
	want := "changed\nn\n"
	in(t, again, Command{}, "cat /etc/motd /new/n; ls /gone /run/secrets /etc/file 2>/dev/null; true", want)
	if h.shifted() {
		in(t, again, Command{}, "stat -c %u:%g /new/n", "33:33\n")
	}
	quiet := contain(t, m, Container{Name: "quiet", Image: next})
	in(t, quiet, Command{}, "true", "")
	if id, err := quiet.(Changed).Changes(t.Context()); id != "" || err != nil {
		t.Errorf("nothing was written: %q, %v", id, err)
	}
	busy := contain(t, m, Container{Name: "busy", Image: next})
	in(t, busy, Command{}, "sleep 1000 >/dev/null 2>&1 &", "")
	if _, err := busy.(Changed).Changes(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("busy: %v", err)
	}
}

// TestMachineSnapshotsBesideContainers: what runs in a container does not write to the machine's disk.
func TestMachineSnapshotsBesideContainers(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "job", Repo: "repo"})
	c := contain(t, m, Container{Name: "box", Image: busybox(t, h, nil)})
	in(t, c, Command{}, "sleep 1000 >/dev/null 2>&1 &", "")
	expect(t, m, "echo kept >~/file", "")
	id, err := m.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := openHost(t, h, Spec{Name: "job", Repo: "repo", From: id})
	expect(t, again, "cat ~/file", "kept\n")
	sharing := contain(t, m, Container{Name: "sharing", Image: busybox(t, h, nil), Mounts: []Mount{{Target: "/data", Source: "/home/runner/data"}}})
	if _, err := m.Snapshot(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("beside one that shares the disk: %v", err)
	}
	if err := sharing.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Snapshot(t.Context()); err != nil {
		t.Error(err)
	}
	expect(t, m, "sleep 1000 >/dev/null 2>&1 &", "")
	if _, err := m.Snapshot(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("with a process of the machine's own: %v", err)
	}
}

// TestContainerOfTheHost shows the machine's host, and keeps what was written to its root.
func TestContainerOfTheHost(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "job", Repo: "repo"})
	expect(t, m, "echo machine >/usr/local/mine", "")
	c := contain(t, m, Container{Name: "db"})
	in(t, c, Command{Env: []string{"PATH=" + m.Info().Path}}, "hostname; python3 -c 'print(1)'; ls /usr/local/mine 2>/dev/null; mkdir /data && echo kept >/data/x; echo lost >/usr/local/mine", "db\n1\n")
	expect(t, m, "cat /usr/local/mine; ls /data 2>/dev/null; true", "machine\n")
	id, err := c.(Changed).Changes(t.Context())
	if err != nil || id == "" {
		t.Fatal(id, err)
	}
	again := contain(t, m, Container{Name: "db", Image: Image{Layers: []layer.ID{id}}})
	in(t, again, Command{}, "cat /data/x; ls /usr/local/mine 2>/dev/null; true", "kept\n")
}

func TestContainerEndsWithTheMachine(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "job", Repo: "repo"})
	c := contain(t, m, Container{Name: "box", Image: busybox(t, h, nil)})
	done := make(chan error, 1)
	started, write := io.Pipe()
	go func() {
		done <- c.Exec(context.Background(), Command{Args: []string{"/bin/sh", "-c", "echo $$; exec sleep 1000"}, Stdout: write})
	}()
	var line [16]byte
	n, err := started.Read(line[:])
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, started)
	if _, err := strconv.Atoi(strings.TrimSpace(string(line[:n]))); err != nil {
		t.Error(err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("the command went on")
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := m.Contain(t.Context(), Container{Name: "late"}); err == nil {
		t.Error("a closed machine has containers")
	}
}

// TestMachineLimits ends what uses more memory than was given, where the kernel lets this user say so.
func TestMachineLimits(t *testing.T) {
	h := newHost(t)
	limits := Limits{Memory: 64 << 20, CPUs: 0.5}
	m := openHost(t, h, Spec{Name: "job", Repo: "repo", Limits: limits})
	if m.group == nil {
		if !strings.Contains(strings.Join(m.Info().Notes, " "), "can not be limited here") {
			t.Errorf("no limits, and no word of it: %q", m.Info().Notes)
		}
		return
	}
	hungry := Command{Args: []string{"python3", "-c", "x = b'x' * (200 << 20); print(len(x))"}, Env: environ(m)}
	var exit *ExitError
	if err := m.Exec(t.Context(), hungry); !errors.As(err, &exit) || exit.Code != 137 || m.group.killed() == 0 {
		t.Errorf("200 MB in 64: %v, %d killed", err, m.group.killed())
	}
	expect(t, m, "echo alive", "alive\n")
	free := openHost(t, h, Spec{Name: "free", Repo: "repo"})
	if err := free.Exec(t.Context(), hungry); err != nil {
		t.Errorf("without a limit: %v", err)
	}
	c := contain(t, free, Container{Name: "box", Limits: limits})
	if err := c.Exec(t.Context(), hungry); !errors.As(err, &exit) || exit.Code != 137 {
		t.Errorf("a container with a limit: %v", err)
	}
	dirs := m.group.dirs
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
}

// TestMachineShowsAnImage runs a job's own commands in an image, with snapshots as everywhere.
func TestMachineShowsAnImage(t *testing.T) {
	h := newHost(t)
	image := busybox(t, h, map[string]string{"etc/motd": "image\n"})
	spec := Spec{Name: "job", Repo: "repo", Image: image, Names: []string{"db"}}
	m := openHost(t, h, spec)
	in(t, m, Command{Env: []string{"PATH=" + m.Info().Path}}, "pwd; cat /etc/motd; grep -o 'job db' /etc/hosts; hostname; ls -d /github/home /__w/_temp /__t", "/__w/repo/repo\nimage\njob db\njob\n/__t\n/__w/_temp\n/github/home\n")
	in(t, m, Command{}, "echo changed >/etc/motd; echo w >file", "")
	id, err := m.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in(t, m, Command{}, "echo later >/etc/motd", "")
	spec.From = id
	again := openHost(t, h, spec)
	in(t, again, Command{}, "cat /etc/motd file", "changed\nw\n")
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"shown": "s"})
	if err := again.Overlay(t.Context(), again.Info().Workspace, dir, nil); err != nil {
		t.Fatal(err)
	}
	in(t, again, Command{}, "ls", "shown\n")
	c := contain(t, again, Container{Name: "db", Image: image, Mounts: []Mount{{Target: "/github/workspace", Source: again.Info().Workspace}}})
	in(t, c, Command{Dir: "/github/workspace"}, "ls; cat /etc/motd", "shown\nimage\n")
}
