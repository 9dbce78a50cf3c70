package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// suite is what every provider must do.
type suite struct {
	provider Provider
	parallel bool // the tests wait for something else most of the time
}

func (s suite) run(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"info", s.info}, {"output", s.output}, {"exit codes", s.exitCodes}, {"environment", s.environment}, {"input", s.input},
		{"missing program", s.missingProgram}, {"daemon holds output", s.daemonHoldsOutput}, {"closed output", s.closedOutput},
		{"ladder", s.ladder}, {"ladder interrupt", s.ladderInterrupt}, {"kills descendants", s.killsDescendants},
		{"close ends all", s.closeEndsAll}, {"put and get", s.putAndGet}, {"hostile archives", s.hostileArchives},
		{"files", s.files}, {"hostile files", s.hostileFiles}, {"bad specs", s.badSpecs}, {"long output", s.longOutput}, {"big environment", s.bigEnvironment},
	} {
		t.Run(c.name, func(t *testing.T) {
			if s.parallel {
				t.Parallel()
			}
			c.test(t)
		})
	}
}

func (s suite) machine(t *testing.T) Sandbox {
	t.Helper()
	return s.open(t, Spec{Name: "one", Repo: "repo"})
}

func (s suite) open(t *testing.T, spec Spec) Sandbox {
	t.Helper()
	sb, err := s.provider.Open(t.Context(), spec)
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

// shell runs a script and gives what it printed on both outputs.
func shell(t *testing.T, sb Sandbox, script string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := sb.Exec(t.Context(), command(sb, script, &out))
	return out.String(), err
}

func command(sb Sandbox, script string, out io.Writer) Command {
	return Command{Args: []string{"bash", "-c", script}, Env: environ(sb), Stdout: out, Stderr: out}
}

func environ(sb Sandbox) []string {
	info := sb.Info()
	return []string{"PATH=" + info.Path, "HOME=" + info.Home, "TMP=" + info.Temp, "FILES=" + info.Files, "WORKSPACE=" + info.Workspace}
}

// expect runs a script that must succeed and print want.
func expect(t *testing.T, sb Sandbox, script, want string) {
	t.Helper()
	got, err := shell(t, sb, script)
	if err != nil || got != want {
		t.Errorf("%s: got %q, %v, want %q", script, got, err, want)
	}
}

func (s suite) info(t *testing.T) {
	sb := s.machine(t)
	info := sb.Info()
	if info.OS != "Linux" && info.OS != "macOS" || info.Arch == "" || info.Path == "" {
		t.Errorf("info: %+v", info)
	}
	if !strings.HasSuffix(info.Workspace, "/repo/repo") {
		t.Errorf("workspace %s does not have GitHub's shape", info.Workspace)
	}
	expect(t, sb, `pwd; ls -A`, info.Workspace+"\n")
	for _, dir := range []string{info.Workspace, info.Temp, info.Files, info.Home} {
		expect(t, sb, fmt.Sprintf(`cd %q && touch x && rm x && echo ok`, dir), "ok\n")
	}
}

func (s suite) output(t *testing.T) {
	sb := s.machine(t)
	var out, errs bytes.Buffer
	c := command(sb, "echo one; echo two >&2", &out)
	c.Stderr = &errs
	if err := sb.Exec(t.Context(), c); err != nil || out.String() != "one\n" || errs.String() != "two\n" {
		t.Errorf("got %q, %q, %v", out.String(), errs.String(), err)
	}
	expect(t, sb, "for i in 1 2 3; do echo $i; echo e$i >&2; done", "1\ne1\n2\ne2\n3\ne3\n")
	if err := sb.Exec(t.Context(), command(sb, "yes | head -c 300000", failingWriter{})); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a writer that fails: %v", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no room") }

func (s suite) exitCodes(t *testing.T) {
	sb := s.machine(t)
	for script, want := range map[string]ExitError{
		"exit 3": {Code: 3}, "exit 255": {Code: 255},
		"kill -KILL $$": {Code: 137, Signal: "killed"}, "kill -SEGV $$": {Code: 139, Signal: "segmentation fault"},
	} {
		_, err := shell(t, sb, script)
		var exit *ExitError
		if !errors.As(err, &exit) || *exit != want {
			t.Errorf("%s: got %v, want %v", script, err, &want)
		}
	}
}

func (s suite) environment(t *testing.T) {
	sb := s.machine(t)
	var out bytes.Buffer
	c := command(sb, "env", &out)
	c.Env = append(c.Env, "GREETING=hello\nworld", "EMPTY=")
	if err := sb.Exec(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"GREETING=hello\nworld\n", "EMPTY=\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("environment lacks %q: %s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "GOCACHE") || strings.Contains(out.String(), "SSH_") {
		t.Errorf("environment of the host leaks: %s", out.String())
	}
}

func (s suite) input(t *testing.T) {
	sb := s.machine(t)
	var out bytes.Buffer
	c := command(sb, "cat", &out)
	c.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
	if err := sb.Exec(t.Context(), c); err != nil || out.Len() != 1<<20 {
		t.Errorf("got %d bytes, %v", out.Len(), err)
	}
	expect(t, sb, "cat; echo end", "end\n")
	// A command that does not read its input ends all the same.
	r, w := io.Pipe()
	defer w.Close()
	c = command(sb, "true", io.Discard)
	c.Stdin = r
	if err := sb.Exec(t.Context(), c); err != nil {
		t.Error(err)
	}
}

func (s suite) missingProgram(t *testing.T) {
	sb := s.machine(t)
	err := sb.Exec(t.Context(), Command{Args: []string{"no-such-shell"}, Env: environ(sb)})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no-such-shell") {
		t.Errorf("missing program: %v", err)
	}
	err = sb.Exec(t.Context(), Command{Args: []string{"true"}, Env: environ(sb), Dir: "/no/such/dir"})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/no/such/dir") {
		t.Errorf("missing directory: %v", err)
	}
	if err := sb.Exec(t.Context(), Command{}); err == nil {
		t.Error("nothing runs")
	}
	expect(t, sb, "echo alive", "alive\n")
}

func (s suite) daemonHoldsOutput(t *testing.T) {
	sb := s.machine(t)
	expect(t, sb, `(trap "" HUP; while sleep 0.01; do :; done) & echo started`, "started\n")
	got, err := shell(t, sb, `setsid sh -c 'while sleep 0.01; do echo more; done' & head -c 100000 /dev/zero | wc -c`)
	if err != nil || !strings.Contains("\n"+got, "\n100000\n") {
		t.Errorf("a daemon goes on writing: %q, %v", got, err)
	}
}

func (s suite) closedOutput(t *testing.T) {
	sb := s.machine(t)
	_, err := shell(t, sb, "exec >&- 2>&-; sleep 0.05; exit 7")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("a command that closes its output: %v", err)
	}
}

// stubborn prints "ready", and what signals it gets.
const stubborn = `trap 'echo INT' INT; trap 'echo TERM' TERM; echo ready; while :; do sleep 0.01; done`

func (s suite) ladder(t *testing.T) {
	sb := s.machine(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &trigger{word: "ready", do: func() { cancel(errStopped) }}
	err := sb.Exec(ctx, command(sb, stubborn, out))
	if !errors.Is(err, errStopped) {
		t.Errorf("stopped: %v", err)
	}
	// bash may still tell that what it waited for was killed before it is killed itself.
	if got, want := out.String(), "ready\nINT\nTERM\n"; !strings.HasPrefix(got, want) {
		t.Errorf("signals: got %q, want %q", got, want)
	}
	expect(t, sb, "echo alive", "alive\n")
}

func (s suite) ladderInterrupt(t *testing.T) {
	sb := s.machine(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &trigger{word: "ready", do: func() { cancel(errStopped) }}
	err := sb.Exec(ctx, command(sb, `trap 'echo bye; exit 0' INT; echo ready; while :; do sleep 0.01; done`, out))
	if !errors.Is(err, errStopped) || out.String() != "ready\nbye\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if err := sb.Exec(ctx, command(sb, "true", io.Discard)); !errors.Is(err, errStopped) {
		t.Errorf("a command after the end: %v", err)
	}
}

var errStopped = errors.New("stopped by the test")

// trigger does something once its word has been written.
type trigger struct {
	bytes.Buffer
	word string
	do   func()
}

func (w *trigger) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if w.do != nil && bytes.Contains(w.Bytes(), []byte(w.word)) {
		w.do()
		w.do = nil
	}
	return n, err
}

func (s suite) killsDescendants(t *testing.T) {
	sb := s.machine(t)
	mark := "4" + fmt.Sprint(time.Now().UnixNano())
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &trigger{word: "ready", do: func() { cancel(errStopped) }}
	script := fmt.Sprintf(`trap '' INT TERM; sleep %[1]s & (sleep %[1]s & wait) & echo ready; while :; do sleep 0.01; done`, mark)
	if err := sb.Exec(ctx, command(sb, script, out)); !errors.Is(err, errStopped) {
		t.Error(err)
	}
	expect(t, sb, fmt.Sprintf(`for i in $(seq 100); do n=$(grep -la 'sleep.[4]%s' /proc/[0-9]*/cmdline 2>/dev/null | wc -l); [ $n = 0 ] && break; sleep 0.05; done; echo $n`, mark[1:]), "0\n")
}

func (s suite) closeEndsAll(t *testing.T) {
	sb := s.machine(t)
	mark := "5" + fmt.Sprint(time.Now().UnixNano())
	expect(t, sb, fmt.Sprintf(`setsid sleep %s >/dev/null 2>&1 </dev/null & echo started`, mark), "started\n")
	if err := sb.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sb.Close(t.Context()); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if err := sb.Exec(t.Context(), command(sb, "true", io.Discard)); err == nil {
		t.Error("a closed machine runs commands")
	}
	if pids := running("sleep\x00" + mark); len(pids) > 0 {
		t.Errorf("alive after Close: %v", pids)
	}
}

// running gives the processes of this host whose command line has text in it and that have not ended.
func running(text string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if line, err := os.ReadFile(f); err == nil && strings.Contains(string(line), text) {
			pids = append(pids, path.Base(path.Dir(f)))
		}
	}
	return pids
}

// entryOf is one entry of a test's archive.
type entryOf struct {
	tar.Header
	data string
}

func archive(t *testing.T, entries ...entryOf) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		e.Size = int64(len(e.data))
		if e.Mode == 0 {
			e.Mode = 0o644
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func file(name, data string) entryOf { return entryOf{tar.Header{Name: name}, data} }

func link(kind byte, name, to string) entryOf {
	return entryOf{tar.Header{Typeflag: kind, Name: name, Linkname: to}, ""}
}

func (s suite) putAndGet(t *testing.T) {
	sb := s.machine(t)
	dir := path.Join(sb.Info().Workspace, "a", "b")
	when := time.Unix(1700000000, 0)
	err := sb.Put(t.Context(), dir, archive(t,
		entryOf{tar.Header{Typeflag: tar.TypeDir, Name: "locked/", Mode: 0o555, ModTime: when}, ""},
		entryOf{tar.Header{Name: "locked/run", Mode: 0o755, ModTime: when}, "#!/bin/sh\necho ran\n"},
		link(tar.TypeSymlink, "alias", "locked/run"), link(tar.TypeLink, "twin", "locked/run"), link(tar.TypeSymlink, "out", "/etc/hostname"),
		file("./plain", "one"), file("plain", "two")))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, sb, "cd a/b; ./alias; ./twin; cat plain; stat -c %a locked; stat -c %Y locked/run; stat -c %h twin; stat -c %u plain | sed s/$(id -u)/me/",
		"ran\nran\ntwo555\n1700000000\n2\nme\n")
	stream, err := sb.Get(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	got := map[string]string{}
	for r := tar.NewReader(stream); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = fmt.Sprintf("%c %s%s", h.Typeflag, h.Linkname, data)
	}
	want := map[string]string{
		"b/": "5 ", "b/alias": "2 locked/run", "b/locked/": "5 ", "b/locked/run": "0 #!/bin/sh\necho ran\n", "b/out": "2 /etc/hostname", "b/plain": "0 two", "b/twin": "1 b/locked/run",
	}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: got %q, want %q", name, got[name], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	if _, err := sb.Get(t.Context(), dir+"/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get what is not there: %v", err)
	}
}

func (s suite) hostileArchives(t *testing.T) {
	sb := s.machine(t)
	base := path.Join(sb.Info().Workspace, "box")
	for name, entries := range map[string][]entryOf{
		"parent":                {file("../escaped", "x")},
		"deep parent":           {file("a/../../escaped", "x")},
		"absolute":              {file(base+"-escaped", "x")},
		"link then write":       {link(tar.TypeSymlink, "l", ".."), file("l/escaped", "x")},
		"absolute link":         {link(tar.TypeSymlink, "l", path.Dir(base)), file("l/escaped", "x")},
		"link chain":            {link(tar.TypeSymlink, "a", "."), link(tar.TypeSymlink, "a/b", ".."), file("b/escaped", "x")},
		"hard link out":         {link(tar.TypeLink, "l", "../../../../../etc/hostname")},
		"absolute hard link":    {link(tar.TypeLink, "l", "/etc/hostname")},
		"hard link via link":    {link(tar.TypeSymlink, "e", "/etc"), link(tar.TypeLink, "l", "e/hostname")},
		"device":                {{tar.Header{Typeflag: tar.TypeChar, Name: "d", Devmajor: 1, Devminor: 3}, ""}},
		"block device":          {{tar.Header{Typeflag: tar.TypeBlock, Name: "d", Devmajor: 8}, ""}},
		"pipe":                  {{tar.Header{Typeflag: tar.TypeFifo, Name: "d"}, ""}},
		"directory link":        {link(tar.TypeSymlink, "d", ".."), {tar.Header{Typeflag: tar.TypeDir, Name: "d/escaped", Mode: 0o755}, ""}},
		"file under a file":     {file("f", "x"), file("f/g", "x")},
		"file over a directory": {{tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755}, ""}, file("d", "x")},
	} {
		if err := sb.Put(t.Context(), base, archive(t, entries...)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		expect(t, sb, `ls; rm -rf box`, "box\n")
	}
	for name, stream := range map[string]string{"garbage": strings.Repeat("garbage!", 200), "cut": cut(t), "endless": huge(t)} {
		if err := sb.Put(t.Context(), base, strings.NewReader(stream)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	expect(t, sb, `echo alive`, "alive\n")
}

func cut(t *testing.T) string {
	data, err := io.ReadAll(archive(t, file("f", strings.Repeat("x", 2000))))
	if err != nil {
		t.Fatal(err)
	}
	return string(data[:1000])
}

// huge claims a file of an exabyte.
func huge(t *testing.T) string {
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 1 << 60}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (s suite) files(t *testing.T) {
	sb := s.machine(t)
	for _, dir := range []string{sb.Info().Files, sb.Info().Temp, sb.Info().Home} {
		name := path.Join(dir, "deep", "er", "file")
		for _, data := range []string{"one\n", "three\n"} {
			if err := WriteFile(t.Context(), sb, name, []byte(data), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		expect(t, sb, fmt.Sprintf(`f=%q; cat $f; stat -c %%a $f; stat -c %%u $f $(dirname $f) | sed s/^$(id -u)$/me/; echo two >> $f; touch $(dirname $f)/more`, name), "three\n640\nme\nme\n")
		if data, err := ReadFile(t.Context(), sb, name, 100); err != nil || string(data) != "three\ntwo\n" {
			t.Errorf("read %s: %q, %v", name, data, err)
		}
		if _, err := ReadFile(t.Context(), sb, name, 9); !errors.Is(err, ErrTooBig) {
			t.Errorf("read %s with a limit: %v", name, err)
		}
		if _, err := ReadFile(t.Context(), sb, name+"x", 9); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read what is not there: %v", err)
		}
	}
}

// hostileFiles has the job place links and pipes where the supervisor reads and writes.
func (s suite) hostileFiles(t *testing.T) {
	sb := s.machine(t)
	if _, ok := sb.(Direct); !ok {
		t.Fatal("the machine is not Direct")
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("host\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(outside), 0o777); err != nil {
		t.Fatal(err)
	}
	expect(t, sb, fmt.Sprintf(`cd $FILES; ln -s %q link; ln -s %q dir; mkfifo pipe; mkdir d; ln -s ../../.. up; echo ok`, outside, path.Dir(outside)), "ok\n")
	files := sb.Info().Files
	for _, name := range []string{"link", "dir/outside", "pipe", "d", "up/x"} {
		if data, err := ReadFile(t.Context(), sb, path.Join(files, name), 100); err == nil {
			t.Errorf("read %s: %q", name, data)
		}
	}
	for _, name := range []string{"dir/outside", "dir/new", "up/new"} {
		if err := WriteFile(t.Context(), sb, path.Join(files, name), []byte("job\n"), 0o644); err == nil {
			t.Errorf("wrote %s", name)
		}
	}
	if err := WriteFile(t.Context(), sb, path.Join(files, "link"), []byte("job\n"), 0o644); err != nil {
		t.Errorf("replace a link: %v", err)
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != "host\n" {
		t.Errorf("the host's file: %q, %v", data, err)
	}
	if names, err := os.ReadDir(filepath.Dir(outside)); err != nil || len(names) != 1 {
		t.Errorf("the host's directory: %v, %v", names, err)
	}
}

func (s suite) longOutput(t *testing.T) {
	sb := s.machine(t)
	var n counter
	if err := sb.Exec(t.Context(), command(sb, `head -c 20000000 /dev/zero; printf end`, &n)); err != nil || n != 20000003 {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func (s suite) bigEnvironment(t *testing.T) {
	sb := s.machine(t)
	c := command(sb, "true", io.Discard)
	for i := range 100 {
		c.Env = append(c.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 10000)))
	}
	if err := sb.Exec(t.Context(), c); err != nil {
		t.Error(err)
	}
	c.Env = append(c.Env, "BIG="+strings.Repeat("x", 20<<20))
	if err := sb.Exec(t.Context(), c); err == nil {
		t.Error("20 MB of environment were accepted")
	}
	expect(t, sb, "echo alive", "alive\n")
}

func (s suite) badSpecs(t *testing.T) {
	for _, spec := range []Spec{
		{Name: "", Repo: "r"}, {Name: "a b", Repo: "r"}, {Name: "-a", Repo: "r"}, {Name: strings.Repeat("a", 64), Repo: "r"}, {Name: "a\nb", Repo: "r"},
		{Name: "a", Repo: ""}, {Name: "a", Repo: ".."}, {Name: "a", Repo: "x/y"}, {Name: "a", Repo: "r", From: "../../etc"}, {Name: "a", Repo: "r", From: "0123456789abcdef0123"},
	} {
		if sb, err := s.provider.Open(t.Context(), spec); err == nil {
			sb.Close(t.Context())
			t.Errorf("%+v: accepted", spec)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if sb, err := s.provider.Open(ctx, Spec{Name: "a", Repo: "r"}); err == nil {
		sb.Close(t.Context())
		t.Error("opened after the end")
	}
}
