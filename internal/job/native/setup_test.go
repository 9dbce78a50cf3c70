package native

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
)

// fake is an installed program that tells a version and nothing else.
func fake(answer string) string {
	return "#!/bin/sh\n[ \"$1\" = env ] && echo /x || echo '" + answer + "'\n"
}

// install puts programs into the machine: path -> script.
func (j *job) install(programs map[string]string) {
	j.t.Helper()
	s, _ := j.step("actions/checkout@v4", nil)
	for name, script := range programs {
		if err := s.put(j.t.Context(), "/", file{name: strings.TrimPrefix(s.abs(name), "/"), data: script, mode: 0o755}); err != nil {
			j.t.Fatal(err)
		}
	}
}

// nodes installs versions of Node.js as nvm does.
func (j *job) nodes(versions ...string) {
	programs := map[string]string{}
	for _, v := range versions {
		programs["~/.nvm/versions/node/v"+v+"/bin/node"] = fake("v" + v)
		programs["~/.nvm/versions/node/v"+v+"/bin/npm"] = fake("10.0.0")
	}
	j.install(programs)
}

func TestSetupNodeTakesWhatFits(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.nodes("14.21.3", "16.13.0", "16.20.2", "17.9.1", "90.1.0", "90.12.3", "91.0.0")
		for spec, want := range map[string]string{
			"16": "16.20.2", "16.x": "16.20.2", "16.13": "16.13.0", "v16.13.0": "16.13.0", "^16.13.0": "16.20.2", "<17 >14": "16.20.2",
			"90": "90.12.3", "90 || 91": "91.0.0", "latest": "91.0.0", "node": "91.0.0", "current": "91.0.0", "*": "91.0.0",
			"lts/*": "90.12.3", "lts/gallium": "16.20.2", "lts/fermium": "14.21.3", "LTS/Gallium": "16.20.2", "=17.9.1": "17.9.1",
		} {
			s, log, err := j.run("actions/setup-node@v4", map[string]string{"node-version": spec})
			if err != nil {
				t.Errorf("%s: %v", spec, err)
				continue
			}
			if s.Outputs["node-version"] != "v"+want {
				t.Errorf("%s: got %s, want v%s", spec, s.Outputs["node-version"], want)
			}
			prefix := j.box.Info().Home + "/.nvm/versions/node/v" + want
			if !slices.Equal(s.NewPath, []string{prefix + "/bin"}) {
				t.Errorf("%s: PATH gets %v", spec, s.NewPath)
			}
			contains(t, log, "Found in cache @ "+prefix, "node: v"+want, "npm: 10.0.0", "::add-matcher::"+j.box.Info().Temp)
			if got := j.sh("node --version"); got != "v"+want {
				t.Errorf("%s: the next step has %s", spec, got)
			}
		}
	})
}

func TestSetupNodeSaysWhatIsMissing(t *testing.T) {
	j := newJob(t, "none")
	j.nodes("16.20.2")
	for spec, want := range map[string]string{
		"5":         "Node.js '5' is not on this machine, and nothing is downloaded.",
		">=16 <16":  "is not on this machine",
		"lts/argon": "Node.js 'lts/argon' is not on this machine",
		"lts/none":  "Unable to find LTS release 'none' for Node version 'lts/none'.",
		"lts/1":     "Unable to find LTS release '1'",
		"no range":  "Unable to find Node version 'no range'",
	} {
		_, _, err := j.run("actions/setup-node@v4", map[string]string{"node-version": spec})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", spec, err, want)
			continue
		}
		if strings.Contains(want, "not on this machine") {
			contains(t, err.Error(), "16.20.2 (", "PATH", "nvm install", "--no-native")
		}
	}
	_, _, err := j.run("actions/setup-node@v4", map[string]string{"node-version": "16", "architecture": "arm"})
	if err == nil || !strings.Contains(err.Error(), "architecture 'arm'") {
		t.Errorf("got %v", err)
	}
}

func TestSetupNodeLinksTheSystemsOwn(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		// Node.js beside other programs must not push those forward.
		bin := j.box.Info().Home + "/../usr"
		_ = bin
		s, _ := j.step("actions/setup-node@v4", nil)
		tools, err := nodeSearch.find(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		system := tool{}
		for _, x := range tools {
			if !ownPrefix(x) {
				system = x
			}
		}
		if system.bin == "" {
			t.Fatal("this test needs the system's Node.js (Debian: nodejs)")
		}
		s, _ = j.must("actions/setup-node@v4", map[string]string{"node-version": system.said})
		want := j.box.Info().ToolCache + "/node/" + system.said + "/" + s.arch() + "/bin"
		if len(s.NewPath) != 1 || s.NewPath[0] != want {
			t.Errorf("PATH gets %v, want %s", s.NewPath, want)
		}
		if got := j.sh("command -v node; node -p 6*7; npm --version >/dev/null; ls " + want + " | grep -v -e node -e np -e corepack || :"); got != want+"/node\n42" {
			t.Errorf("got %q", got)
		}
	})
}

func TestSetupNodeReadsVersionFiles(t *testing.T) {
	j := newJob(t, "none")
	j.nodes("14.21.3", "16.13.0", "16.20.2", "90.1.0")
	for _, c := range []struct{ name, text, want string }{
		{".nvmrc", "v16.13.0\n", "16.13.0"},
		{".nvmrc", "lts/gallium", "16.20.2"},
		{".node-version", "14\r\n", "14.21.3"},
		{".tool-versions", "ruby 2.7\nnodejs 16.13.0\n", "16.13.0"},
		{"package.json", `{"engines":{"node":">=14 <16"}}`, "14.21.3"},
		{"package.json", `{"engines":{"node":"90"},"volta":{"node":"16.13.0"}}`, "16.13.0"},
		{"package.json", `{"engines":{"node":"90"},"devEngines":{"runtime":[{"name":"bun","version":"1"},{"name":"node","version":"14"}]}}`, "14.21.3"},
		{"package.json", `{"devEngines":{"runtime":{"name":"Node","version":"16.13.0"}}}`, "16.13.0"},
		{"package.json", `{"volta":{"extends":"./base/p.json"}}`, "16.13.0"},
		{"mise.toml", "[tools]\nnode = \"14\"\n", "14.21.3"},
		{"mise.toml", "[tools]\nnode = {version = \"14\"}\n", "14.21.3"},
	} {
		j.files(map[string]string{c.name: c.text, "base/p.json": `{"volta":{"node":"16.13.0"}}`})
		s, _, err := j.run("actions/setup-node@v4", map[string]string{"node-version-file": c.name, "package-manager-cache": "false"})
		if err != nil || s.Outputs["node-version"] != "v"+c.want {
			t.Errorf("%s %q: got %v, %v, want %s", c.name, c.text, s.Outputs, err, c.want)
		}
	}
	_, _, err := j.run("actions/setup-node@v4", map[string]string{"node-version-file": "none"})
	if err == nil || !strings.HasPrefix(err.Error(), "The specified node version file at: ") {
		t.Errorf("got %v", err)
	}
	j.files(map[string]string{"package.json": `{"volta":{"extends":"package.json"}}`})
	_, log := j.must("actions/setup-node@v4", map[string]string{"node-version-file": "package.json"})
	contains(t, log, "::warning::Could not determine node version")
	_, log = j.must("actions/setup-node@v4", map[string]string{"node-version-file": "package.json", "node-version": "16"})
	contains(t, log, "::warning::Both node-version and node-version-file inputs are specified, only node-version will be used")
}

func TestSetupNodeCachesNpm(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.files(map[string]string{"package-lock.json": "{}"})
		j.install(map[string]string{"~/bin/npm": "#!/bin/sh\n[ \"$1\" = config ] && echo \"$HOME/.npm-cache\" || echo 10\n"})
		j.env["PATH"] = j.box.Info().Home + "/bin:" + j.box.Info().Path
		s, log := j.must("actions/setup-node@v4", map[string]string{"cache": "npm"})
		contains(t, log, "npm cache is not found")
		key := s.Outputs["cache-primary-key"]
		if want := "node-cache-Linux-" + s.arch() + "-npm-"; !strings.HasPrefix(key, want) || len(key) != len(want)+64 || s.Outputs["cache-hit"] != "false" {
			t.Errorf("outputs %v", s.Outputs)
		}
		contains(t, j.post("actions/setup-node@v4", s), "::warning::There are no cache folders on the disk")
		j.sh("mkdir -p ~/.npm-cache; echo x >~/.npm-cache/x")
		contains(t, j.post("actions/setup-node@v4", s), "Cache saved with the key: "+key)

		n := j.next()
		n.files(map[string]string{"package-lock.json": "{}", "package.json": `{"packageManager":"npm@10.1.0"}`})
		n.install(map[string]string{"~/bin/npm": "#!/bin/sh\n[ \"$1\" = config ] && echo \"$HOME/.npm-cache\" || echo 10\n"})
		n.env["PATH"] = n.box.Info().Home + "/bin:" + n.box.Info().Path
		s, log = n.must("actions/setup-node@v4", nil)
		contains(t, log, "Detected npm as the package manager", "Cache restored from key: "+key)
		if s.Outputs["cache-hit"] != "true" || s.Outputs["cache-matched-key"] != key {
			t.Errorf("outputs %v", s.Outputs)
		}
		equal(t, "npm's cache", n.tree("~/.npm-cache"), []string{"x=x\n"})
		contains(t, n.post("actions/setup-node@v4", s), "Cache hit occurred on the primary key "+key+", not saving cache.")

		for with, want := range map[string]string{"bun": "Caching for 'bun' is not supported", "pnpm": "Dependencies lock file is not found in"} {
			n.install(map[string]string{"~/bin/pnpm": "#!/bin/sh\necho \"$HOME/.pnpm\"\n"})
			if _, _, err := n.run("actions/setup-node@v4", map[string]string{"cache": with}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v", with, err)
			}
		}
	})
}

func TestSetupNodeWritesTheRegistry(t *testing.T) {
	j := newJob(t, "none")
	j.env["NODE_AUTH_TOKEN"] = "token"
	j.files(map[string]string{j.box.Info().Temp + "/.npmrc": "@octo:registry=https://old/\nkeep=1\n"})
	s, _ := j.must("actions/setup-node@v4", map[string]string{"registry-url": "https://npm.pkg.github.com"})
	name := j.box.Info().Temp + "/.npmrc"
	if s.NewEnv["NPM_CONFIG_USERCONFIG"] != name || s.NewEnv["NODE_AUTH_TOKEN"] != "token" {
		t.Errorf("environment %v", s.NewEnv)
	}
	if got := j.sh("cat " + name); got != "keep=1\n//npm.pkg.github.com/:_authToken=${NODE_AUTH_TOKEN}\n@octo:registry=https://npm.pkg.github.com/" {
		t.Errorf("got %q", got)
	}
}

func TestSetupGoTakesWhatFits(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		programs := map[string]string{}
		for _, v := range []string{"1.18.10", "1.19", "1.20rc1", "1.21.4", "1.21.13", "9.3.0", "9.4.1"} {
			programs["~/sdk/go"+v+"/bin/go"] = fake("go version go" + v + " linux/amd64")
		}
		j.install(programs)
		for spec, want := range map[string]string{
			"1.21": "1.21.13", "1.21.x": "1.21.13", "1.21.4": "1.21.4", "go1.21.4": "1.21.4", "~1.21.5": "1.21.13", "1.19": "1.19", "1.20rc1": "1.20rc1",
			"stable": "9.4.1", "oldstable": "9.3.0", "9": "9.4.1", ">=1.18 <1.19": "1.18.10", "1.20.0-rc.1": "1.20rc1",
		} {
			s, log, err := j.run("actions/setup-go@v5", map[string]string{"go-version": spec, "cache": "false"})
			if err != nil {
				t.Errorf("%s: %v", spec, err)
				continue
			}
			if s.Outputs["go-version"] != want || s.NewEnv["GOTOOLCHAIN"] != "local" {
				t.Errorf("%s: got %v, %v, want %s", spec, s.Outputs, s.NewEnv, want)
			}
			contains(t, log, "Setup go version spec "+spec, "Added go to the path", "Successfully set up Go version "+spec, "go version go"+want, "::add-matcher::")
		}
		_, _, err := j.run("actions/setup-go@v5", map[string]string{"go-version": "1.99"})
		if err == nil {
			t.Fatal("1.99 is found")
		}
		contains(t, err.Error(), "Go '1.99' is not on this machine", "9.4.1 (", "golang.org/dl/go1.99", "--no-native")
	})
}

func TestGoVersionFile(t *testing.T) {
	for _, c := range []struct {
		name, text string
		local      bool
		want       string
	}{
		{"go.mod", "module x\n\ngo 1.21\n", false, "1.21"},
		{"go.mod", "module x\n\ngo 1.21.3\n\ntoolchain go1.22.1\n", false, "1.22.1"},
		{"go.mod", "module x\n\ngo 1.21.3\n\ntoolchain go1.22.1\n", true, "1.21.3"},
		{"go.mod", "module x\ngo 1.21\ntoolchain default\n", false, "1.21"},
		{"go.work", "go 1.20\n\nuse ./a\n", false, "1.20"},
		{".tool-versions", "nodejs 18\ngolang 1.21.5 # why\n", false, "1.21.5"},
		{".go-version", "1.19.2\n", false, "1.19.2"},
		{"go.mod", "module x\n", false, ""},
	} {
		if got := goVersionFile(c.name, c.text, c.local); got != c.want {
			t.Errorf("%s %q: got %q, want %q", c.name, c.text, got, c.want)
		}
	}
}

func TestSetupGoWithTheRealOne(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.env["GOFLAGS"], j.env["GOPROXY"] = "-mod=mod", "off"
		j.files(map[string]string{"go.mod": "module example.com/x\n\ngo 1.21\n"})
		s, log := j.must("actions/setup-go@v5", map[string]string{"go-version": "stable"})
		contains(t, log, "Cache is not found", "GOROOT=")
		if got := j.sh("go list -m; go env GOTOOLCHAIN; mkdir -p $(go env GOCACHE); echo x >$(go env GOCACHE)/x"); got != "example.com/x\nlocal" {
			t.Errorf("got %q", got)
		}
		contains(t, j.post("actions/setup-go@v5", s), "Cache saved with the key: setup-go-Linux-"+s.arch()+"-")
		n := j.next()
		n.env = map[string]string{"GOPROXY": "off"}
		n.files(map[string]string{"go.mod": "module example.com/x\n\ngo 1.21\n"})
		if s, log := n.must("actions/setup-go@v5", map[string]string{"go-version": "stable"}); s.Outputs["cache-hit"] != "true" {
			t.Errorf("outputs %v\n%s", s.Outputs, log)
		}
		if got := n.sh("cat $(go env GOCACHE)/x"); got != "x" {
			t.Errorf("restored %q", got)
		}
	})
}

func TestSetupPythonMakesAPython(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.files(map[string]string{
			"pkg/pyproject.toml": "[build-system]\nrequires=[]\nbuild-backend='b'\nbackend-path=['.']\n[project]\nname='thing'\nversion='1.0'\n",
			"pkg/b.py":           pythonBackend,
			"requirements.txt":   "x\n",
		})
		j.env["PIP_CACHE_DIR"] = j.box.Info().Home + "/pipcache"
		s, log := j.must("actions/setup-python@v5", map[string]string{"python-version": "3.x", "cache": "pip"})
		version := s.Outputs["python-version"]
		dir := j.box.Info().ToolCache + "/Python/" + version + "/" + s.arch()
		contains(t, log, "Successfully set up CPython ("+version+")", "pip cache is not found", "::add-matcher::")
		if s.Outputs["python-path"] != dir+"/bin/python" || s.NewEnv["pythonLocation"] != dir || s.NewEnv["Python3_ROOT_DIR"] != dir ||
			s.NewEnv["PKG_CONFIG_PATH"] != dir+"/lib/pkgconfig" || s.NewEnv["LD_LIBRARY_PATH"] != dir+"/lib" || !slices.Equal(s.NewPath, []string{dir, dir + "/bin"}) {
			t.Errorf("got %v, %v, %v", s.Outputs, s.NewEnv, s.NewPath)
		}
		for _, name := range []string{"python", "python3", "pip", "pip3"} {
			if got := j.sh("command -v " + name); got != dir+"/bin/"+name {
				t.Errorf("%s is %s", name, got)
			}
		}
		if got := j.sh("python -c 'import sys; print(sys.version.split()[0], sys.prefix)'"); got != version+" "+dir {
			t.Errorf("python is %s", got)
		}
		// Nothing of what the machine's user has installed, and pip installs as on GitHub.
		got := j.sh("pip list --format=freeze --disable-pip-version-check | cut -d= -f1 | tr '\\n' ' '")
		for name := range strings.FieldsSeq(got) {
			if name != "pip" && name != "setuptools" {
				t.Errorf("%s is installed", name)
			}
		}
		j.sh("pip install --no-index --disable-pip-version-check -q ./pkg; thing | grep hello; python -c 'import thing'; python -m venv --without-pip v; v/bin/python -c ''")
		if left := j.sh("python3 -I -c 'import thing; print(thing.__file__)'"); !strings.HasPrefix(left, dir) {
			t.Errorf("installed to %s", left)
		}
		j.sh("mkdir -p ~/pipcache; echo x >~/pipcache/x")
		contains(t, j.post("actions/setup-python@v5", s), "Cache saved with the key: setup-python-Linux-"+s.arch()+"-")
		again, _ := j.must("actions/setup-python@v5", map[string]string{"python-version": version, "update-environment": "false"})
		if len(again.NewPath) > 0 || again.Outputs["python-path"] != dir+"/bin/python" {
			t.Errorf("without update-environment: %v, %v", again.NewPath, again.Outputs)
		}
	})
}

// pythonBackend builds a wheel of one module with one script, without any tool.
const pythonBackend = `
import zipfile
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel_directory + "/" + name, "w") as z:
        z.writestr("thing.py", "def main(): print('hello')\n")
        z.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        z.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: b\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("thing-1.0.dist-info/entry_points.txt", "[console_scripts]\nthing = thing:main\n")
        z.writestr("thing-1.0.dist-info/RECORD", "")
    return name
`

func TestSetupPythonIsMadeOnceForMachinesWithLayers(t *testing.T) {
	j := newJob(t, "host")
	with := map[string]string{"python-version": "3.x"}
	s, _ := j.must("actions/setup-python@v5", with)
	j.sh("echo x >" + s.NewEnv["pythonLocation"] + "/of-this-job")
	entries, err := j.host.Cache.used()
	if err != nil || len(entries) != 1 {
		t.Fatalf("kept: %v, %v", entries, err)
	}
	n := j.next()
	s, _ = n.must("actions/setup-python@v5", with)
	if got := n.sh("ls " + s.NewEnv["pythonLocation"] + "; pip --version; python -c 'print(6*7)'"); strings.Contains(got, "of-this-job") || !strings.HasSuffix(got, "42") || !strings.Contains(got, s.NewEnv["pythonLocation"]) {
		t.Errorf("the next job has %s", got)
	}
	if again, err := j.host.Cache.used(); err != nil || len(again) != 1 {
		t.Errorf("made again: %v, %v", again, err)
	}
}

func TestPythonFits(t *testing.T) {
	have := []string{"2.7.18", "3.8.20", "3.11.7", "3.11.9", "3.12.0", "3.13.0-rc2", "3.14.0-a1"}
	for _, c := range []struct {
		spec string
		pre  bool
		want string
	}{
		{"3.11", false, "3.11.9"}, {"3.11.7", false, "3.11.7"}, {"3.x", false, "3.12.0"}, {"3", false, "3.12.0"}, {"3.13", false, ""}, {"3.13", true, "3.13.0-rc2"},
		{"3.13-dev", false, "3.13.0-rc2"}, {"3.13.0rc2", false, "3.13.0-rc2"}, {"3.14.0a1", false, "3.14.0-a1"}, {"3.12-dev", false, "3.12.0"}, {">=3.8 <3.12", false, "3.11.9"},
		{"~3.11", false, "3.11.9"}, {"3.8 - 3.11", false, "3.11.9"}, {"*", false, "3.12.0"}, {"==3.8.*", false, "3.8.20"}, {"3.10", false, ""}, {"3.1", false, ""},
	} {
		fits, err := pythonFits(c.spec, c.pre)
		if err != nil {
			t.Errorf("%s: %v", c.spec, err)
			continue
		}
		got := ""
		for _, v := range have {
			if fits(semver.MustParse(v)) {
				got = v
			}
		}
		if got != c.want {
			t.Errorf("%s %v: got %q, want %q", c.spec, c.pre, got, c.want)
		}
	}
}

func TestSetupPythonRefuses(t *testing.T) {
	j := newJob(t, "none")
	for _, c := range []struct {
		with map[string]string
		want string
	}{
		{map[string]string{"python-version": "3.99"}, "Python '3.99' is not on this machine"},
		{map[string]string{"python-version": "pypy3.10"}, "--no-native"},
		{map[string]string{"python-version": "graalpy-22"}, "--no-native"},
		{map[string]string{"python-version": "3.13t"}, "free-threaded"},
		{map[string]string{"python-version": "3", "freethreaded": "true"}, "free-threaded"},
		{map[string]string{"python-version": "new"}, "neither a version of Python nor a range"},
		{map[string]string{"python-version": "3", "pip-version": "latest"}, "Invalid pip-version \"latest\"."},
		{map[string]string{"python-version-file": "none"}, "The specified python version file at: none doesn't exist."},
		{map[string]string{"python-version": "3", "cache": "conda"}, "Caching for 'conda' is not supported"},
		{map[string]string{"python-version": "3", "cache": "poetry"}, "matched to [**/poetry.lock], make sure you have checked out the target repository"},
		{map[string]string{"python-version": "3", "cache": "pip"}, "matched to [**/requirements.txt or **/pyproject.toml]"},
	} {
		_, _, err := j.run("actions/setup-python@v5", c.with)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %s", c.with, err, c.want)
		}
	}
	_, log := j.must("actions/setup-python@v5", nil)
	contains(t, log, "[warning].python-version doesn't exist.", "::warning::The `python-version` input is not set.")
}

func TestPythonVersionFiles(t *testing.T) {
	j := newJob(t, "none")
	for _, c := range []struct{ name, text, want string }{
		{".python-version", "# pinned\n3.11\n\n3.12/envs/x\n", "3.11 3.12"},
		{"pyproject.toml", "[project]\nname='x'\nrequires-python = '>=3.9,<4'\n", ">=3.9 <4"},
		{"pyproject.toml", "[tool.poetry.dependencies]\npython = '^3.10'\n", "^3.10"},
		{"pyproject.toml", "[project]\nname='x'\n", ""},
		{".tool-versions", "nodejs 18\npython 3.11.4\n", "3.11.4"},
		{"Pipfile", "[requires]\npython_version = '3.11'\n", "3.11"},
		{"Pipfile", "[requires]\npython_version = '3.11'\npython_full_version = '3.11.2'\n", "3.11.2"},
	} {
		j.files(map[string]string{c.name: c.text})
		s, _ := j.step("actions/setup-python@v5", map[string]string{"python-version-file": c.name})
		got, err := pythonVersions(t.Context(), s)
		if g := strings.Join(got, " "); err != nil || g != c.want {
			t.Errorf("%s %q: got %q, %v, want %q", c.name, c.text, g, err, c.want)
		}
	}
	j.files(map[string]string{"pyproject.toml": "[[["})
	s, _ := j.step("actions/setup-python@v5", map[string]string{"python-version-file": "pyproject.toml"})
	if _, err := pythonVersions(t.Context(), s); err == nil {
		t.Error("a broken file is taken")
	}
}

func TestVersionInPath(t *testing.T) {
	for bin, want := range map[string]string{
		"/root/.nvm/versions/node/v18.20.4/bin/node":                               "18.20.4",
		"/opt/hostedtoolcache/Python/3.11.9/x64/bin/python3.11":                    "3.11.9",
		"/root/sdk/go1.22.3/bin/go":                                                "1.22.3",
		"/root/go/pkg/mod/golang.org/toolchain@v0.0.1-go1.21.0.linux-amd64/bin/go": "1.21.0",
		"/root/.pyenv/versions/3.12.4/bin/python3.12":                              "3.12.4",
		"/root/.local/share/uv/python/cpython-3.12.4-linux-x86_64-gnu/bin/python3": "",
		"/root/.asdf/installs/golang/1.21.5/go/bin/go":                             "1.21.5",
		"/usr/bin/python3.11":                                                      "",
		"/root/.local/share/mise/installs/node/20/bin/node":                        "",
		"/root/sdk/go1.20rc1/bin/go":                                               "",
		"/opt/hostedtoolcache/node/22.0.0-rc.1/x64/bin/node":                       "",
		"/home/1.2.3/bin/node":                                                     "1.2.3",
	} {
		got := ""
		if v := versionInPath(bin); v != nil {
			got = v.String()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", bin, got, want)
		}
	}
}

func TestEveryNativeHasItsManifest(t *testing.T) {
	for name := range actions() {
		parts := append(strings.SplitN(name, "/", 3), "")
		a := manifest(t, parts[0]+"/"+parts[1], parts[2], "v4")
		if len(a.Inputs) == 0 || a.Runs.Using != "node24" {
			t.Errorf("%s: %+v", name, a)
		}
		native := Find(parts[0]+"/"+parts[1], parts[2], "v4")
		_, posts := native.(Poster)
		if posts != (a.Runs.Post != "") {
			t.Errorf("%s: a post step: %v, in the manifest: %q", name, posts, a.Runs.Post)
		}
		condition := ""
		if p, ok := native.(PostIf); ok {
			condition = p.PostIf()
		}
		if listed := a.Runs.PostIf; (listed == nil) != (condition == "") || listed != nil && listed.Source != condition {
			t.Errorf("%s: post-if %q, in the manifest %+v", name, condition, listed)
		}
	}
	files, err := fs.Glob(manifests, "manifest/*.yml")
	if err != nil || len(files) != len(actions()) {
		t.Errorf("%d manifests for %d natives, %v", len(files), len(actions()), err)
	}
	for _, c := range []struct {
		repository, path, ref string
		want                  bool
	}{
		{"Actions/Checkout", "", "v4", true}, {"actions/cache", "restore", "v4", true}, {"actions/cache", "/restore/", "main", true}, {"actions/cache", "Restore", "v4", false},
		{"actions/cache", "nothing", "v4", false}, {"octo/checkout", "", "v4", false}, {"actions/checkout", "", "", false}, {"actions/checkout", "sub", "v4", false},
	} {
		if got := Find(c.repository, c.path, c.ref) != nil; got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func TestHiddenToolsAreFoundOnTheHost(t *testing.T) {
	home, tools := t.TempDir(), t.TempDir()
	for _, name := range []string{home + "/.nvm/versions/node/v77.1.0/bin/node", tools + "/node/77.2.0/x64/bin/node"} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(fake("v77")), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	j := newJob(t, "host")
	j.host.Home, j.host.Tools = home, []string{tools}
	for spec, dir := range map[string]string{"77.1": home + "/.nvm/versions/node/v77.1.0", "77": tools + "/node/77.2.0/x64"} {
		s, _ := j.must("actions/setup-node@v4", map[string]string{"node-version": spec})
		if !slices.Equal(s.NewPath, []string{dir + "/bin"}) || s.Outputs["node-version"] != "v77" {
			t.Errorf("%s: %v, %v", spec, s.NewPath, s.Outputs)
		}
	}
	n := newJob(t, "inside")
	n.host.Home, n.host.Tools = home, []string{tools}
	s, _ := n.step("actions/setup-node@v4", nil)
	if got := nodeSearch.hidden(s, nil); len(got) != 0 {
		t.Errorf("a machine without layers is offered %v", got)
	}
	if got := fmt.Sprint(nodeSearch.missing(s, "Node.js", "5", errors.New("why"), nil, "x")); !strings.Contains(got, home) || !strings.Contains(got, "none") {
		t.Errorf("got %s", got)
	}
}
