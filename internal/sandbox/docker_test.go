//go:build linux

package sandbox

import (
	"archive/tar"
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// daemon is a dockerd of a test's own.
type daemon struct{ host string }

// startDaemon runs dockerd with everything of its own in one directory, and ends it with the test.
func startDaemon(t testing.TB) *daemon {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("dockerd needs root: run the tests as root")
	}
	dir, err := os.MkdirTemp("/tmp", "dockerd-") // the socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	logs, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "sock")
	cmd := exec.Command("dockerd", "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--host", "unix://"+socket, "--iptables=false", "--bridge=none")
	cmd.Stdout, cmd.Stderr = logs, logs
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // it ends its containerd
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			t.Error("dockerd did not end")
		}
		logs.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d := &daemon{"unix://" + socket}
	for range 400 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return d
		}
		select {
		case err := <-ended:
			ended <- err
			text, _ := os.ReadFile(logs.Name())
			t.Fatalf("dockerd: %v\n%s", err, text)
		case <-time.After(25 * time.Millisecond):
		}
	}
	t.Fatal("dockerd does not answer")
	return nil
}

// load makes an image of a tar stream.
func (d *daemon) load(t testing.TB, ref string, files io.Reader, changes ...string) {
	t.Helper()
	api, err := client.New(client.WithHost(d.host))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	got, err := api.ImageImport(t.Context(), client.ImageImportSource{Source: files, SourceName: "-"}, ref, client.ImageImportOptions{Changes: changes})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if text, err := io.ReadAll(got); err != nil || bytes.Contains(text, []byte(`"error"`)) {
		t.Fatalf("import %s: %s, %v", ref, text, err)
	}
}

const (
	workImage  = "penstock.test/work:1"  // programs of this host
	busyImage  = "penstock.test/busy:1"  // another system
	emptyImage = "penstock.test/empty:1" // no shell
)

// workPrograms are what the suite's scripts run.
var workPrograms = strings.Fields("bash sh env cat ls stat sed head wc touch mkdir mkfifo ln rm seq sleep setsid grep id true dirname yes tail tty stty")

// hostImage packs programs of this host with the libraries that they need.
func hostImage(t testing.TB, programs []string) io.Reader {
	t.Helper()
	files := map[string]string{}
	for _, name := range programs {
		file, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		files["usr/bin/"+name] = file
		out, err := exec.Command("ldd", file).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", file, err)
		}
		for _, word := range strings.Fields(string(out)) {
			if filepath.IsAbs(word) {
				files["usr"+strings.TrimPrefix(word, "/usr")] = word
			}
		}
	}
	return pack(t, files, map[string]string{"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}, "root:x:0:0::/root:/bin/sh\nworker:x:1234:1234::/:/bin/sh\n")
}

func pack(t testing.TB, files, links map[string]string, users string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h *tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for name, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}, data)
	}
	for name, to := range links {
		add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	if users != "" {
		add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte(users))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func (d *daemon) provider(t testing.TB, o DockerOptions) *Docker {
	t.Helper()
	o.Host = d.host
	if o.Image == "" {
		o.Image = workImage
	}
	p, err := NewDocker(o)
	if err != nil {
		t.Fatal(err)
	}
	p.Ladder = Ladder{Interrupt: 300 * time.Millisecond, Terminate: 300 * time.Millisecond} // signals go by the daemon
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestDocker runs the suite, and what only Docker has, with one real daemon.
func TestDocker(t *testing.T) {
	d := startDaemon(t)
	d.load(t, workImage, hostImage(t, workPrograms), "ENV FROM_IMAGE=leak", "USER worker")
	d.load(t, busyImage, busyBox(t, "bin/busybox", "bin/sh", "bin/env", "bin/cat", "bin/sleep", "bin/setsid", "bin/seq", "bin/ps", "bin/tail", "bin/nc"), "ENV PATH=/bin")
	d.load(t, emptyImage, busyBox(t, "sleep", "echo", "nc", "cat"), "VOLUME /data")
	t.Run("with", func(t *testing.T) {
		for _, c := range []struct {
			name string
			test func(*testing.T, *daemon)
		}{
			{"suite", func(t *testing.T, d *daemon) { suite{d.provider(t, DockerOptions{Network: "none"}), true}.run(t) }},
			{"contain", dockerContain}, {"machine", dockerMachines}, {"network", dockerNetwork}, {"terminal", dockerTerminal}, {"limits", dockerLimits},
			{"remote", dockerRemote}, {"mounts", dockerMounts}, {"no shell", dockerNoShell}, {"other shell", dockerOtherShell}, {"sweep", dockerSweep},
			{"pull", dockerPull}, {"close", dockerClose},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel() // they wait for the daemon most of the time
				c.test(t, d)
			})
		}
	})
	if left := d.left(t); left != "" {
		t.Errorf("left at the daemon: %s", left)
	}
}

// busyBox packs one static program under several names.
func busyBox(t testing.TB, names ...string) io.Reader {
	t.Helper()
	file, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, name := range names {
		files[name] = file
	}
	return pack(t, files, nil, "")
}

// left names the containers, volumes and networks that are at the daemon beside its own.
func (d *daemon) left(t *testing.T) string {
	t.Helper()
	api, err := client.New(client.WithHost(d.host))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	containers, err := api.ContainerList(t.Context(), client.ContainerListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	volumes, err := api.VolumeList(t.Context(), client.VolumeListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	networks, err := api.NetworkList(t.Context(), client.NetworkListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range containers.Items {
		names = append(names, c.Names...)
	}
	for _, v := range volumes.Items {
		names = append(names, v.Name)
	}
	for _, n := range networks.Items {
		if n.Name != "none" && n.Name != "host" {
			names = append(names, n.Name)
		}
	}
	return strings.Join(names, " ")
}
