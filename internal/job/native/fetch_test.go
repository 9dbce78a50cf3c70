package native

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/Masterminds/semver/v3"

	"github.com/penstock-ci/penstock/internal/toolchain"
)

// world is nodejs.org and go.dev, with programs that tell their version and nothing else.
type world struct {
	source *toolchain.Source
	server *httptest.Server

	mu    sync.Mutex
	asked []string
}

func newWorld(t *testing.T, nodes map[string]string, gos ...string) *world {
	t.Helper()
	w := &world{}
	mux := http.NewServeMux()
	serve := func(path string, data []byte) {
		mux.HandleFunc(path, func(rw http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			w.asked = append(w.asked, r.URL.Path)
			w.mu.Unlock()
			_, _ = rw.Write(data)
		})
	}
	var index, downloads []string
	for v, lts := range nodes {
		index = append(index, fmt.Sprintf(`{"version":"v%s","files":["linux-x64"],"lts":%s}`, v, lts))
		name := "node-v" + v + "-linux-x64"
		data := toolArchive(t, name, "node", fake("v"+v))
		serve("/dist/v"+v+"/"+name+".tar.gz", data)
		serve("/dist/v"+v+"/SHASUMS256.txt", fmt.Appendf(nil, "%x  %s.tar.gz\n", sha256.Sum256(data), name))
	}
	for _, v := range gos {
		name := "go" + v + ".linux-amd64.tar.gz"
		data := toolArchive(t, "go", "go", fake("go version go"+v+" linux/amd64"))
		serve("/dl/"+name, data)
		downloads = append(downloads, fmt.Sprintf(`{"version":"go%s","files":[{"filename":%q,"os":"linux","arch":"amd64","kind":"archive","sha256":"%x"}]}`, v, name, sha256.Sum256(data)))
	}
	serve("/dist/index.json", []byte("["+strings.Join(index, ",")+"]"))
	serve("/dl/", []byte("["+strings.Join(downloads, ",")+"]"))
	w.server = httptest.NewServer(mux)
	t.Cleanup(w.server.Close)
	w.source = &toolchain.Source{Dir: t.TempDir(), NodeURL: w.server.URL + "/dist", GoURL: w.server.URL + "/dl"}
	return w
}

func toolArchive(t *testing.T, dir, program, script string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: dir + "/bin/" + program, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(script))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, script); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// count says how often a path was asked for.
func (w *world) count(path string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, p := range w.asked {
		if p == path {
			n++
		}
	}
	return n
}

var someNodes = map[string]string{
	"95.1.0": "false", "94.2.0": "false", "94.1.0": `"Xenon"`, "93.0.0": "false", "92.9.0": `"Argon2"`, "92.8.0": `"Argon2"`, "18.99.0": `"Hydrogen"`, "96.0.0-rc.1": "false",
}

func TestMissingVersionsAreFetched(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		w := newWorld(t, someNodes, "9.3.1", "9.4.0", "9.4.2", "9.5rc1")
		j.host.Toolchains = w.source
		j.nodes("92.1.0", "94.0.0", "18.1.0")
		cache := j.box.Info().ToolCache + "/node/"
		for _, c := range []struct {
			spec, want string
			with       map[string]string
		}{
			{"95", "95.1.0", nil},                // the machine has none
			{"92", "92.1.0", nil},                // the machine has one, so that one
			{"92.8.x", "92.8.0", nil},            // none that fits
			{"latest", "95.1.0", nil},            // the newest in the world, here since
			{"node", "95.1.0", nil},              //
			{"lts/*", "94.0.0", nil},             // the newest line is 94, and the machine has it
			{"lts/-1", "92.8.0", nil},            // 92, and by now the machine has 92.8.0
			{"lts/xenon", "94.0.0", nil},         // known to the list alone
			{"lts/hydrogen", "18.1.0", nil},      // known to everybody
			{"92", "92.9.0", latest},             // the newest of the world all the same
			{"lts/*", "94.2.0", latest},          //
			{"96.0.0-rc.1", "96.0.0-rc.1", nil},  //
			{">=95 <97", "95.1.0", nil},          // no pre-release
			{"^92.8.0 || 18.1.0", "92.9.0", nil}, // the newest of all
		} {
			with := map[string]string{"node-version": c.spec}
			for k, v := range c.with {
				with[k] = v
			}
			s, log, err := j.run("actions/setup-node@v4", with)
			if err != nil || s.Outputs["node-version"] != "v"+c.want {
				t.Errorf("%s %v: got %v, %v, want %s\n%s", c.spec, c.with, s.Outputs, err, c.want, log)
				continue
			}
			if slices.Contains([]string{"95.1.0", "92.8.0", "92.9.0", "94.2.0"}, c.want) && !slices.Equal(s.NewPath, []string{cache + c.want + "/x64/bin"}) {
				t.Errorf("%s: PATH gets %v", c.spec, s.NewPath)
			}
		}
		if got := j.sh("ls " + cache + "95.1.0; cd " + cache + "95.1.0/x64; echo x >mine; node --version"); !strings.HasPrefix(got, "x64\nx64.complete\n") {
			t.Errorf("got %q", got)
		}
		for _, c := range [][2]string{{"9.4.0", "9.4.0"}, {"9.4", "9.4.0"}, {"stable", "9.4.2"}, {"9.4", "9.4.2"}, {"oldstable", "9.3.1"}, {"9.5rc1", "9.5rc1"}} {
			spec, want := c[0], c[1]
			s, log, err := j.run("actions/setup-go@v5", map[string]string{"go-version": spec, "cache": "false"})
			if err != nil || s.Outputs["go-version"] != want {
				t.Errorf("go %s: got %v, %v, want %s\n%s", spec, s.Outputs, err, want, log)
			}
		}

		// The next job has them without a download, and as they were.
		if n := j.next(); n.host != nil {
			n.host.Toolchains = w.source
			_, log := n.must("actions/setup-node@v4", map[string]string{"node-version": "95.x"})
			if got := w.count("/dist/v95.1.0/node-v95.1.0-linux-x64.tar.gz"); got != 1 {
				t.Errorf("the archive was fetched %d times\n%s", got, log)
			}
			if got := n.sh("cd " + n.box.Info().ToolCache + "/node/95.1.0/x64; ls; ls .."); got != "bin\nx64\nx64.complete" {
				t.Errorf("got %q", got)
			}
		}
	})
}

var latest = map[string]string{"check-latest": "true"}

// waiting passes on how often a log says that a job waits for another.
type waiting struct{ seen chan<- struct{} }

func (w waiting) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "Another job is fetching node 93.0.0: waiting for it") {
		w.seen <- struct{}{}
	}
	return len(p), nil
}

func TestOfJobsOneFetches(t *testing.T) {
	const jobs = 4
	archive := "/dist/v93.0.0/node-v93.0.0-linux-x64.tar.gz"
	w := newWorld(t, someNodes)
	seen, again := make(chan struct{}, jobs), make(chan struct{}, 2*jobs)
	inner := w.server.Config.Handler
	var first sync.Once
	w.server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == archive {
			waits := false
			first.Do(func() { waits = true })
			if !waits {
				again <- struct{}{}
			}
			for n := 0; waits && n < jobs-1; n++ { // until all others wait, or one does not
				select {
				case <-seen:
				case <-again:
				}
			}
		}
		inner.ServeHTTP(rw, r)
	})
	one := newJob(t, "host")
	one.host.Toolchains = w.source
	var wg sync.WaitGroup
	errs := make([]error, jobs)
	for i := range errs {
		s, _ := one.next().step("actions/setup-node@v4", map[string]string{"node-version": "93"})
		s.Log = waiting{seen}
		wg.Go(func() {
			errs[i] = action(t, "actions/setup-node@v4").Main(t.Context(), s)
			again <- struct{}{} // who is done without having waited keeps nobody waiting
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if got := w.count(archive); got != 1 {
		t.Errorf("the archive was fetched %d times", got)
	}
	left, err := os.ReadDir(filepath.Join(w.source.Dir, "archives"))
	if err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

func TestWhatCanNotBeFetched(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		t.Setenv("PATH", t.TempDir()) // no registries
		w := newWorld(t, map[string]string{"93.0.0": "false"})
		j.host.Toolchains = w.source
		j.nodes("92.1.0", "91.0.0")
		run := func(spec string) (string, error) {
			_, log, err := j.run("actions/setup-node@v4", map[string]string{"node-version": spec})
			return log, err
		}
		if _, err := run("97"); err == nil || !strings.Contains(err.Error(), "Node.js '97' is not on this machine, and there is no such version in the list of 127.0.0.1:") {
			t.Errorf("got %v", err)
		}
		if _, err := run("lts/nosuch"); err == nil || !strings.Contains(err.Error(), "Unable to find LTS release 'nosuch'") {
			t.Errorf("got %v", err)
		}
		w.source = &toolchain.Source{Dir: w.source.Dir, NodeURL: w.server.URL + "/gone"}
		j.host.Toolchains = w.source
		if _, err := run("93"); err == nil || !strings.Contains(err.Error(), "404 Not Found") || !strings.Contains(err.Error(), "92.1.0 (") {
			t.Errorf("got %v", err)
		}
		j.host.Toolchains = &toolchain.Source{Dir: t.TempDir(), Offline: true}
		if _, err := run("93"); err == nil || !strings.Contains(err.Error(), "this run is offline") {
			t.Errorf("got %v", err)
		}
		// What is newest in the world is not known then, and the machine's newest does.
		if log, err := run("lts/*"); err != nil || !strings.Contains(log, "The newest version of this machine is taken: ") || !strings.Contains(log, "node: v92.1.0") {
			t.Errorf("got %v\n%s", err, log)
		}
	})
}

func TestAFetchedProgramThatDoesNotRun(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		w := newWorld(t, nil, "9.9.0")
		data := toolArchive(t, "node-v88.0.0-linux-x64", "node", "#!/no/such/loader\n")
		sum := sha256.Sum256(data)
		mux := http.NewServeMux()
		mux.HandleFunc("/index.json", func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprint(rw, `[{"version":"v88.0.0","files":["linux-x64"],"lts":false}]`)
		})
		mux.HandleFunc("/v88.0.0/", func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, ".txt") {
				fmt.Fprintf(rw, "%x  node-v88.0.0-linux-x64.tar.gz\n", sum)
				return
			}
			_, _ = rw.Write(data)
		})
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		w.source.NodeURL = server.URL
		j.host.Toolchains = w.source
		_, _, err := j.run("actions/setup-node@v4", map[string]string{"node-version": "88"})
		if err == nil || !strings.Contains(err.Error(), "node 88.0.0 does not run on this machine: it may need another C library") {
			t.Errorf("got %v", err)
		}
	})
}

// buildScript is what the builds of actions/python-versions install themselves with, less the update of pip.
const buildScript = `set -e
V=3.98.1 ARCH=x64
if [ -z ${AGENT_TOOLSDIRECTORY+x} ]; then ROOT=$RUNNER_TOOL_CACHE; else ROOT=$AGENT_TOOLSDIRECTORY; fi
AT=$ROOT/Python/$V/$ARCH
if [ ! -d $ROOT/Python ]; then mkdir -p $ROOT/Python; elif [ -d $AT ]; then rm -rf $AT; fi
mkdir -p $AT
cp -R ./* $AT
rm $AT/setup.sh
cd $AT
ln -s ./bin/python3.98 python
cd bin/
ln -s python3.98 python398
if [ ! -f python ]; then ln -s python3.98 python; fi
chmod +x ../python python3 python3.98 python398 python
echo "Create complete file"
touch $ROOT/Python/$V/$ARCH.complete
`

func TestPythonIsFetchedForUbuntu(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{"./setup.sh": buildScript, "./bin/python3.98": fake("Python 3.98.1"), "./bin/python3": fake("Python 3.98.1")} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	var server *httptest.Server
	downloads := 0
	mux := http.NewServeMux()
	mux.HandleFunc("/manifest.json", func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, `[{"version":"3.98.2","files":[{"arch":"x64","platform":"linux","platform_version":"22.04","download_url":"%[1]s/no.tar.gz"}]},
			{"version":"3.98.1","stable":true,"files":[{"arch":"x64-freethreaded","platform":"linux","platform_version":"24.04","download_url":"%[1]s/no.tar.gz"},
			{"arch":"x64","platform":"linux","platform_version":"24.04","download_url":"%[1]s/yes.tar.gz"}]},
			{"version":"3.98.3","files":[{"arch":"x64","platform":"linux","platform_version":"24.04","download_url":"http://192.0.2.1/x.tar.gz"}]}]`, server.URL)
	})
	mux.HandleFunc("/yes.tar.gz", func(rw http.ResponseWriter, r *http.Request) {
		downloads++
		_, _ = rw.Write(b.Bytes())
	})
	server = httptest.NewServer(mux)
	t.Cleanup(server.Close)

	j := newJob(t, "host")
	j.host.Toolchains = &toolchain.Source{Dir: t.TempDir(), PythonURL: server.URL + "/manifest.json"}
	_, _, err := j.run("actions/setup-python@v5", map[string]string{"python-version": "3.98"})
	if ubuntu := strings.Contains(j.sh("cat /etc/os-release"), "ID=ubuntu"); !ubuntu && (err == nil || !strings.Contains(err.Error(), "it has builds for Ubuntu alone")) {
		t.Errorf("got %v", err)
	}
	for range 2 {
		j = j.next()
		j.sh(`rm /etc/os-release; printf 'NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n' >/etc/os-release`)
		s, log := j.must("actions/setup-python@v5", map[string]string{"python-version": "3.98"})
		dir := j.box.Info().ToolCache + "/Python/3.98.1/x64"
		if s.Outputs["python-version"] != "3.98.1" || s.Outputs["python-path"] != dir+"/bin/python" || s.NewEnv["pythonLocation"] != dir {
			t.Errorf("got %v, %v\n%s", s.Outputs, s.NewEnv, log)
		}
		if got := j.sh("command -v python; python --version; cd " + dir + "/..; ls; ls " + j.box.Info().Temp); got != dir+"/bin/python\nPython 3.98.1\nx64\nx64.complete\n_matchers" {
			t.Errorf("got %s", got)
		}
	}
	if downloads != 1 {
		t.Errorf("fetched %d times", downloads)
	}
}

func TestUbuntuVersion(t *testing.T) {
	for text, want := range map[string]string{
		"NAME=\"Ubuntu\"\nVERSION_ID=\"24.04\"\nVERSION=\"24.04.1 LTS\"\nID=ubuntu\n": "24.04", "ID='ubuntu'\r\nVERSION_ID=22.04": "22.04",
		"ID=debian\nVERSION_ID=\"12\"\n": "", "ID=ubuntu": "", "": "", "ID=linuxmint\nID_LIKE=ubuntu\nVERSION_ID=22": "",
	} {
		if got := ubuntuVersion(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// TestPythonOfAToolCacheIsLeftAsItIs: its directory is the one that a Python of ours would get.
func TestPythonOfAToolCacheIsLeftAsItIs(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		dir := j.box.Info().ToolCache + "/Python/3.97.2/x64"
		j.install(map[string]string{dir + "/bin/python3.97": fake("Python 3.97.2"), dir + "/bin/python": fake("Python 3.97.2")})
		s, _ := j.must("actions/setup-python@v5", map[string]string{"python-version": "3.97"})
		if got := j.sh("python --version; cd " + dir + "; find . -type f -o -type l | sort"); s.Outputs["python-path"] != dir+"/bin/python" || got != "Python 3.97.2\n./bin/python\n./bin/python3.97" {
			t.Errorf("got %v, %s", s.Outputs, got)
		}
	})
}

func TestMirrorsOfWorkflowsHaveNoEffect(t *testing.T) {
	j := newJob(t, "none")
	j.nodes("91.0.0")
	_, log := j.must("actions/setup-node@v4", map[string]string{"node-version": "91", "mirror": "http://192.0.2.1/"})
	contains(t, log, "::warning::mirror has no effect")
	j.install(map[string]string{"~/sdk/go9.9.9/bin/go": fake("go version go9.9.9 linux/amd64")})
	_, log = j.must("actions/setup-go@v6", map[string]string{"go-version": "9.9", "cache": "false", "go-download-base-url": "http://192.0.2.1/"})
	contains(t, log, "::warning::go-download-base-url has no effect")
}

func TestFetchedNodeTrustsTheMachine(t *testing.T) {
	w := newWorld(t, someNodes)
	j := newJob(t, "host")
	j.host.Toolchains = w.source
	j.sh("rm -rf /usr/local/share/ca-certificates; mkdir -p /usr/local/share/ca-certificates /etc/ssl/certs; touch /etc/ssl/certs/ca-certificates.crt")
	with := map[string]string{"node-version": "93"}
	if s, _ := j.must("actions/setup-node@v4", with); s.NewEnv["NODE_EXTRA_CA_CERTS"] != "" {
		t.Errorf("with no authorities of its own: %v", s.NewEnv)
	}
	for _, own := range []string{"", "/mine.pem"} { // the first step mounts, and the job's own setting stays
		j = j.next()
		j.sh("mkdir -p /usr/local/share/ca-certificates /etc/ssl/certs; touch /usr/local/share/ca-certificates/own.crt /etc/ssl/certs/ca-certificates.crt")
		want := "/etc/ssl/certs/ca-certificates.crt"
		if own != "" {
			j.env["NODE_EXTRA_CA_CERTS"], want = own, ""
		}
		if s, _ := j.must("actions/setup-node@v4", with); s.NewEnv["NODE_EXTRA_CA_CERTS"] != want {
			t.Errorf("got %v, want %s", s.NewEnv, want)
		}
	}
}

// TestLTSLinesOfARegistry: a registry's list has no names.
func TestLTSLinesOfARegistry(t *testing.T) {
	for spec, want := range map[string]string{"lts/*": "28.1.0", "lts/-1": "26.0.0", "lts/-2": "24.0.0", "lts/krypton": "24.0.0", "latest": "30.0.0"} {
		var versions []*semver.Version
		for _, v := range []string{"31.0.0-rc.1", "30.0.0", "29.0.0", "28.1.0", "28.0.0", "27.0.0", "26.0.0", "24.0.0"} {
			versions = append(versions, semver.MustParse(v))
		}
		fits, err := nodeFits(spec, versions, &toolchain.List{Registry: true})
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		if i := slices.IndexFunc(versions, fits); i < 0 || versions[i].String() != want {
			t.Errorf("%s: got %d, want %s", spec, i, want)
		}
	}
}
