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

func TestOfJobsOneFetches(t *testing.T) {
	w := newWorld(t, someNodes)
	first := newJob(t, "host")
	first.host.Toolchains = w.source
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		j := first.next()
		s, _ := j.step("actions/setup-node@v4", map[string]string{"node-version": "93"})
		wg.Go(func() { errs[i] = action(t, "actions/setup-node@v4").Main(t.Context(), s) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if got := w.count("/dist/v93.0.0/node-v93.0.0-linux-x64.tar.gz"); got != 1 {
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
