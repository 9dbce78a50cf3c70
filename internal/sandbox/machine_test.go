//go:build linux

package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMachineIsRootInAMachineOfItsOwn(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "build-1", Repo: "repo"})
	expect(t, m, "id -u; id -g; hostname; cat /etc/hostname; getent hosts build-1 | awk '{print $1, $2}'", "0\n0\nbuild-1\nbuild-1\n127.0.0.1 localhost\n")
	expect(t, m, "ls -A /tmp /run/user /mnt /media /srv 2>/dev/null | grep -v : | grep .; true", "")
	expect(t, m, "stat -c %a /tmp /var/tmp /dev/shm; touch /tmp/x /var/tmp/x /dev/shm/x && echo ok", "1777\n1777\n1777\nok\n")
	expect(t, m, "ls /dev | tr '\\n' ' '", "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero ")
	expect(t, m, "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo y | cat /dev/stdin; [ -e /dev/fd/0 ] && echo fd", "3\n3\ny\nfd\n")
	expect(t, m, `python3 -c 'import multiprocessing; multiprocessing.Lock(); print("semaphores")'`, "semaphores\n")
	expect(t, m, "mkdir /own && mount -t tmpfs none /own && touch /own/x && umount /own && echo mounted; unshare -Urn true && echo nested", "mounted\nnested\n")
	expect(t, m, "for d in /usr/local/bin /etc /opt /var/lib; do echo x > $d/new && rm $d/new || echo no $d; done; sed -i s/localhost/localhost/ /etc/hosts && echo ok", "ok\n")
}

// TestMachineShowsTools finds this machine's tools inside, and those of the user's own installation.
func TestMachineShowsTools(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for name, data := range map[string]string{
		".cargo/bin/cargo": "#!/bin/sh\necho cargo $0\n", ".cargo/credentials.toml": "secret", ".cargo/config.toml": "[registry]\ntoken = 'secret'\n",
		".rustup/settings.toml": "profile = 'default'\n", ".ssh/id_ed25519": "secret", ".netrc": "secret", ".npmrc": "secret",
		"tools/bin/mytool": "#!/bin/sh\nexec $(dirname $0)/../lib/impl\n", "tools/lib/impl": "#!/bin/sh\necho mytool\n", ".aws/credentials": "secret",
	} {
		writeTree(t, home, map[string]string{name: data})
		if strings.Contains(name, "/bin/") || strings.Contains(name, "/lib/") {
			if err := os.Chmod(filepath.Join(home, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(home, "tools/bin")+":"+filepath.Join(home, ".cargo/bin")+":/no/such/dir:relative:"+standardPath)
	m := openHost(t, newHost(t), Spec{Name: "one", Repo: "repo"})
	cargo := filepath.Join(home, ".cargo")
	expect(t, m, "cargo; mytool; git --version | cut -c1-11; readlink ~/.cargo", "cargo "+cargo+"/bin/cargo\nmytool\ngit version\n"+cargo+"\n")
	expect(t, m, fmt.Sprintf("cd %q; ls -A; ls -A .cargo; cat .rustup/settings.toml", home), ".cargo\n.rustup\ntools\nbin\nprofile = 'default'\n")
	expect(t, m, "echo x > ~/.cargo/bin/new; ls ~/.cargo/bin; echo x > ~/.cargo/credentials.toml; cat ~/.cargo/credentials.toml", "cargo\nnew\nx\n")
	if got, err := shell(t, m, "grep -rls secret "+home+" /home /root 2>/dev/null; true"); err != nil || got != "" {
		t.Errorf("secrets inside: %s, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(cargo, "bin/new")); err == nil {
		t.Error("a write reached the host")
	}
	if path := m.Info().Path; strings.Contains(path, "relative") || strings.Contains(path, "/no/such") || !strings.HasPrefix(path, home) {
		t.Errorf("PATH: %s", path)
	}
}

// TestMachineHidesSecrets looks for what no job should see.
func TestMachineHidesSecrets(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	expect(t, m, "cut -d: -f2 /etc/shadow | sort -u; cut -d: -f2 /etc/gshadow | sort -u", "*\n*\n")
	expect(t, m, "ls /home; ls -A /etc/ssl/private /root/.ssh /var/lib/docker /var/backups /var/log 2>/dev/null | grep -v : | grep .; true", "runner\n")
	expect(t, m, "ls /run/*.sock /var/run/*.sock /run/*/*.sock 2>/dev/null; true", "")
	expect(t, m, fmt.Sprintf("ls -d %q /proc/1/root/%[1]s 2>/dev/null; true", h.layers.Dir()), "")
	// What an ordinary user of this host can not read, root inside can not read either.
	for _, dir := range []string{"/etc", "/var", "/opt"} {
		_ = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || strings.Count(name, "/") > 4 || exempted(name) {
				return nil
			}
			info, err := e.Info()
			if err != nil || info.Mode()&0o004 != 0 || info.Size() == 0 {
				return nil
			}
			if got, err := shell(t, m, fmt.Sprintf("cat %q", name)); err == nil && got != "" && !replaced(name) {
				t.Errorf("%s can be read inside", name)
			}
			return nil
		})
	}
	other := openHost(t, h, Spec{Name: "two", Repo: "repo"})
	expect(t, other, "ls -A ~/work/_temp ~/work/repo/repo /tmp", "/home/runner/work/_temp:\n\n/home/runner/work/repo/repo:\n\n/tmp:\n")
}

func exempted(name string) bool {
	for _, dir := range openDirs {
		if within(dir, name) {
			return true
		}
	}
	return false
}

func replaced(name string) bool {
	return name == "/etc/shadow" || name == "/etc/gshadow" || name == "/etc/sudoers"
}

// TestMachineEscapes tries the ways out.
func TestMachineEscapes(t *testing.T) {
	h := newHost(t)
	before := fingerprintHost(t)
	bystander := exec.Command("sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	abstract, err := net.Listen("unix", fmt.Sprintf("@penstock-test-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})

	expect(t, m, "ps -e -o comm= >/tmp/ps; sort /tmp/ps | tr '\\n' ' '", "bash penstock-machin ps ")
	for name, script := range map[string]string{
		"kill a process of the host":    fmt.Sprintf("kill -9 %d", bystander.Process.Pid),
		"kill the supervisor":           fmt.Sprintf("kill -9 %d", os.Getpid()),
		"sysrq":                         "echo h > /proc/sysrq-trigger",
		"core pattern":                  "echo '|/tmp/x' > /proc/sys/kernel/core_pattern",
		"core pattern, remounted":       "mount -o remount,rw /proc; echo '|/tmp/x' > /proc/sys/kernel/core_pattern",
		"a fresh proc":                  "mkdir /p; mount -t proc none /p; echo '|/tmp/x' > /p/sys/kernel/core_pattern",
		"vm settings":                   "echo 1 > /proc/sys/vm/drop_caches",
		"release agent":                 "mkdir /cg; mount -t cgroup -o memory none /cg",
		"release agent v2":              "mkdir /cg2; mount -t cgroup2 none /cg2",
		"uevent helper":                 "mount -o remount,rw /sys; echo /tmp/x > /sys/kernel/uevent_helper",
		"kernel memory":                 "head -c 1 /proc/kcore",
		"kernel log":                    "dmesg",
		"kernel log, by file":           "timeout 1 head -c 1 /proc/kmsg",
		"a disk's node":                 "mknod /d b 254 0; head -c 1 /d",
		"a disk's node in shm":          "mknod /dev/shm/d b 254 0; head -c 1 /dev/shm/d",
		"memory's node":                 "mknod /m c 1 1; head -c 1 /m",
		"a node of an own tmpfs":        "mkdir /t; mount -t tmpfs none /t && mknod /t/d b 254 0 && head -c 1 /t/d",
		"the agent's program":           "echo x >> /proc/1/exe",
		"the agent's program by a fd":   "exec 3</proc/1/exe; echo x >> /proc/self/fd/3",
		"an abstract socket":            fmt.Sprintf(`python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("\0penstock-test-%d")'`, os.Getpid()),
		"the host's other namespaces":   "nsenter -t 1 -U -m -n -p true && ls /home/*/.ssh /root/.bashrc",
		"chroot":                        `python3 -c 'import os; os.mkdir("/c"); os.chroot("/c"); [os.chdir("..") for i in range(50)]; os.chroot("."); os.listdir("/lost+found")'`,
		"unmount to see beneath":        "umount -l /etc && cat /etc/passwd",
		"unmount the root":              "umount -l / && cat /etc/machine-id",
		"keyring":                       `python3 -c 'import ctypes,os,sys; sys.exit(0 if ctypes.CDLL(None).syscall(250, 0, -3, 0) > 0 else 1)'`,
		"bpf":                           `python3 -c 'import ctypes,sys; sys.exit(0 if ctypes.CDLL(None).syscall(321, 0, 0, 0) >= 0 else 1)'`,
		"hypervisor":                    `python3 -c 'import socket; socket.socket(40, socket.SOCK_STREAM)'`,
		"x32 system calls":              `python3 -c 'import ctypes,sys; sys.exit(0 if ctypes.CDLL(None).syscall(0x40000000+39) > 0 else 1)'`,
		"handles":                       `python3 -c 'import ctypes,sys; sys.exit(0 if ctypes.CDLL(None).syscall(304, 0, 0, 0) >= 0 else 1)'`,
		"clock":                         "date -s 2001-01-01",
		"host name of the host":         "hostname other && false",
		"the agent's directories":       `for f in /proc/1/fd/*; do case $(readlink $f) in socket:*|anon_inode:*|/dev/null|pipe:*|"") ;; *) readlink $f; exit 0;; esac; done; exit 1`,
		"the agent's directory":         `[ "$(readlink /proc/1/cwd)$(readlink /proc/1/root)" != // ]`,
		"files that the step was given": `for f in /proc/self/fd/*; do case $(readlink $f) in pipe:*|/dev/null|/proc/*|"") ;; *) readlink $f; exit 0;; esac; done; exit 1`,
	} {
		if out, err := shell(t, m, script); err == nil {
			t.Errorf("%s: succeeded: %s", name, out)
		}
		m.Close(t.Context())
		m = openHost(t, h, Spec{Name: "one", Repo: "repo"})
	}
	// The job may do what it likes with the agent: it is a process of the machine.
	if out, err := shell(t, m, `python3 -c '
import ctypes, os
libc = ctypes.CDLL(None)
libc.ptrace(0x4206, 1, 0, 0) # PTRACE_SEIZE
print(os.readlink("/proc/1/root"), os.path.exists("/proc/1/root/lost+found"), len(os.listdir("/proc/1/task")) > 0)'`); err != nil || out != "/ False True\n" {
		t.Errorf("looking into the agent: %q, %v", out, err)
	}
	m.Close(t.Context())
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the bystander: %v", err)
	}
	if after := fingerprintHost(t); after != before {
		t.Errorf("the host's files changed:\nbefore %s\nafter  %s", before, after)
	}
}

// fingerprintHost tells whether files of the host that escapes aim at were changed.
func fingerprintHost(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	for _, name := range []string{"/etc/passwd", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc/sys/kernel/core_pattern", "/proc/self/exe", "/proc/sys/kernel/hostname"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %x\n", name, sha256.Sum256(data))
	}
	for _, dir := range []string{"/", "/etc", "/usr", "/usr/bin", "/usr/local/bin", "/opt", "/home", "/var/lib"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %d\n", dir, len(entries))
	}
	return b.String()
}

// TestMachineContainsForkBombs sets a small limit: the host and the machine's closing stay unharmed.
func TestMachineContainsForkBombs(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "one", Repo: "repo", Limits: Limits{Processes: 60}})
	expect(t, m, `python3 -c '
import os
try:
    for i in range(200):
        if os.fork() == 0:
            os.close(1); os.close(2)
            os.execvp("sleep", ["sleep", "100"])
except BlockingIOError:
    print("refused")'`, "refused\n")
	bomb, stop := context.WithTimeout(t.Context(), time.Second) // bash tries again for half a minute
	defer stop()
	_ = m.Exec(bomb, Command{Args: []string{"bash", "-c", `:(){ :|:& };: 2>/dev/null`}, Env: environ(m)})
	if n := len(running("sleep\x00100\x00")); n > 60 {
		t.Errorf("%d processes", n)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	other := openHost(t, h, Spec{Name: "two", Repo: "repo"})
	expect(t, other, "echo alive", "alive\n")
}

// TestMachineTerminal gives a command a terminal of the machine's own.
func TestMachineTerminal(t *testing.T) {
	m := openHost(t, newHost(t), Spec{Name: "one", Repo: "repo"})
	keys := func(text string) *os.File {
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); out.Close() })
		if _, err := out.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return in
	}
	screen, err := os.Create(filepath.Join(t.TempDir(), "screen"))
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	err = m.Exec(t.Context(), Command{Args: []string{"bash", "--norc", "-i"}, Env: append(environ(m), "PS1=> "), TTY: true, Stdin: keys("echo typed $((6*7))\nexit 3\n"), Stdout: screen})
	if exit, ok := err.(*ExitError); !ok || exit.Code != 3 {
		t.Errorf("exit: %v", err)
	}
	got, err := os.ReadFile(screen.Name())
	if err != nil || !strings.Contains(string(got), "typed 42") {
		t.Errorf("screen: %q, %v", got, err)
	}
	in := keys("tty; [ -t 0 ] && [ -t 1 ] && stty size && exit 0\n")
	if err := m.Exec(t.Context(), Command{Args: []string{"bash", "--norc", "-i"}, Env: environ(m), TTY: true, Stdin: in, Stdout: screen}); err != nil {
		t.Error(err)
	}
}

// TestMachineDiesWithItsSupervisor kills the process that opened a machine, then looks for what is left.
func TestMachineDiesWithItsSupervisor(t *testing.T) {
	dir := t.TempDir()
	mark := fmt.Sprintf("6%d", time.Now().UnixNano())
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestSupervisorToKill$")
	cmd.Env = append(os.Environ(), "PENSTOCK_TEST_STORE="+dir, "PENSTOCK_TEST_MARK="+mark)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := stdout.Read(buf); err != nil || string(buf) != "ready" {
		t.Fatalf("supervisor: %q, %v", buf, err)
	}
	if len(running("sleep\x00"+mark)) == 0 {
		t.Error("the machine's process does not run")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for range 400 {
		if len(running("sleep\x00"+mark))+len(running("penstock-warden\x00"+dir)) == 0 {
			break
		}
		<-time.After(25 * time.Millisecond)
	}
	if left := running("sleep\x00" + mark); len(left) > 0 {
		t.Errorf("alive after the supervisor was killed: %v", left)
	}
	h := hostOn(t, openStore(t, dir))
	openHost(t, h, Spec{Name: "after", Repo: "repo"}).Close(t.Context())
	if err := h.layers.Close(); err != nil { // waits for what is removed in the background
		t.Error(err)
	}
	for _, part := range []string{"scratch", "trash", "new"} {
		entries, err := os.ReadDir(filepath.Join(dir, part))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !strings.HasPrefix(filepath.Join(dir, part, e.Name()), h.work.Dir()) {
				t.Errorf("left in the store: %s/%s", part, e.Name())
			}
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("mounts of the store on the host: %v", err)
	}
}

// TestSupervisorToKill is not a test of its own: the one above runs it in another process and kills it.
func TestSupervisorToKill(t *testing.T) {
	dir := os.Getenv("PENSTOCK_TEST_STORE")
	if dir == "" {
		return
	}
	h := hostOn(t, openStore(t, dir))
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	if err := m.Mount(t.Context(), "/data"); err != nil {
		t.Fatal(err)
	}
	script := "mkdir -p -m 0 /data/closed ~/closed; echo x > /data/f; setsid sleep " + os.Getenv("PENSTOCK_TEST_MARK") + " >/dev/null 2>&1 & for i in $(seq 50); do pgrep sleep >/dev/null && break; done; sleep 0.2; printf ready"
	if err := m.Exec(t.Context(), command(m, script, os.Stdout)); err != nil {
		t.Fatal(err)
	}
	select {}
}

// TestWardenKilled kills the process that makes machines: those that it made end, and the next ones are made by another.
func TestWardenKilled(t *testing.T) {
	h := hostOn(t, openStore(t, t.TempDir()))
	before := openHost(t, h, Spec{Name: "before", Repo: "repo"})
	for range 2 {
		at := h
		for at.next != nil {
			at = at.next
		}
		if err := at.proc.Kill(); err != nil {
			t.Fatal(err)
		}
		after := openHost(t, h, Spec{Name: "after", Repo: "repo"})
		if err := after.Exec(t.Context(), Command{Args: []string{"true"}, Env: []string{"PATH=" + after.Info().Path}}); err != nil {
			t.Error(err)
		}
		if err := after.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := before.Exec(t.Context(), Command{Args: []string{"true"}, Env: []string{"PATH=" + before.Info().Path}}); err == nil {
		t.Error("a machine outlives the process that made it")
	}
}
