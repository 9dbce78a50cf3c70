package osv

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"package-lock.json", `{"packages": {"": {"version": "1.0.0"}, "node_modules/a": {"version": "1.2.3"},
"node_modules/a/node_modules/@s/b": {"version": "2.0.0"}, "packages/own": {"version": "0.0.1"}, "node_modules/own": {"link": true}}}`, "@s/b@2.0.0:2 a@1.2.3:1"},
		{"web/npm-shrinkwrap.json", `{"dependencies": {"a": {"version": "1.0.0", "dependencies": {"b": {"version": "2.0.0"}}}}}`, "a@1.0.0:1 b@2.0.0:1"},
		{"requirements-dev.txt", "# none\nDjango==4.2.1 ; python_version > '3'\nflask[async] === 2.0\nrequests>=2\n-r other.txt\nx==1.*\n", "Django@4.2.1:2 flask@2.0:3"},
		{"poetry.lock", "[[package]]\nname = \"a\"\nversion = \"1.0\"\n\n[[package]]\nname = \"b-c\"\nversion = \"2.0\"\n", "a@1.0:2 b-c@2.0:6"},
		{"uv.lock", "version = 1\n[[package]]\nname = \"a\"\nversion = \"1.0\"\n[[package]]\nname = \"own\"\nsource = { virtual = \".\" }\n", "a@1.0:3"},
		{"Pipfile.lock", `{"default": {"a": {"version": "==1.0"}}, "develop": {"b": {"version": "==2.0"}, "c": {"git": "x"}}}`, "a@1.0:1 b@2.0:1"},
		{"go.mod", "module x\n\nrequire (\n\tgithub.com/a/b v1.2.3\n\tc v0.0.0-20200101000000-abcdefabcdef // indirect\n)\n", "github.com/a/b@1.2.3:4 c@0.0.0-20200101000000-abcdefabcdef:5"},
	} {
		if !IsLockFile(test.name) {
			t.Errorf("%s is not read", test.name)
		}
		packages, err := Read(test.name, []byte(test.text))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		var got []string
		for _, p := range packages {
			got = append(got, fmt.Sprintf("%s@%s:%d", p.Name, p.Version, p.Line))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %s, not %s", test.name, got, test.want)
		}
	}
	if _, err := Read("package-lock.json", []byte("{")); err == nil || !strings.Contains(err.Error(), "read package-lock.json") {
		t.Errorf("a broken one: %v", err)
	}
	if IsLockFile("package.json") {
		t.Error("package.json pins nothing")
	}
}

// advisories in the words of their databases (GitHub's, PyPA's, Go's).
var advisories = map[string]map[string]string{
	NPM: {
		"GHSA-35jh-r3h4-6jhm.json": `{"id":"GHSA-35jh-r3h4-6jhm","aliases":["CVE-2021-23337"],"summary":"Command Injection in lodash","database_specific":{"severity":"HIGH"},
			"affected":[{"package":{"ecosystem":"npm","name":"lodash"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"4.17.21"}]}]}]}`,
		"same.json": `{"id":"OTHER-1","aliases":["CVE-2021-23337"],"affected":[{"package":{"ecosystem":"npm","name":"lodash"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]}]}`,
		"two.json": `{"id":"GHSA-2","details":"Two lines\nof text","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],"affected":[{"package":{"ecosystem":"npm","name":"two"},
			"ranges":[{"type":"SEMVER","events":[{"introduced":"1.0.0"},{"fixed":"1.2.0"},{"introduced":"2.0.0"},{"last_affected":"2.1.0"}]}]}]}`,
		"gone.json": `{"id":"GHSA-3","withdrawn":"2024-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"two"},"versions":["1.1.0"]}]}`,
	},
	PyPI: {
		"PYSEC-2023-1.json": `{"id":"PYSEC-2023-1","summary":"x","severity":[{"type":"CVSS_V4","score":"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:L/VI:N/VA:N/SC:N/SI:N/SA:N"}],
			"affected":[{"package":{"ecosystem":"PyPI","name":"zope-interface"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"5.0"}]}],"versions":["7.0.odd"]}]}`,
	},
	Go: {
		"GO-2022-1.json": `{"id":"GO-2022-1","aliases":["CVE-2022-1"],"summary":"y","affected":[{"package":{"ecosystem":"Go","name":"example.com/m"},"ranges":[{"type":"SEMVER","events":[{"introduced":"1.1.0"},{"fixed":"1.3.0"}]}]}]}`,
	},
}

func makeDatabase(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for ecosystem, files := range advisories {
		if err := os.MkdirAll(filepath.Join(dir, ecosystem), 0o755); err != nil {
			t.Fatal(err)
		}
		writeArchive(t, filepath.Join(dir, ecosystem, "all.zip"), files)
	}
	return dir
}

func writeArchive(t *testing.T, name string, files map[string]string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for name, text := range files {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	dir := makeDatabase(t)
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time by the index
		for _, test := range []struct{ ecosystem, name, version, want string }{
			{NPM, "lodash", "4.17.20", "CVE-2021-23337 HIGH 4.17.21 Command Injection in lodash|CVE-2021-23337 UNKNOWN  "},
			{NPM, "lodash", "4.17.20-rc.1", "CVE-2021-23337 HIGH 4.17.21 Command Injection in lodash|CVE-2021-23337 UNKNOWN  "},
			{NPM, "Lodash", "4.17.20", ""},
			{NPM, "two", "0.9.0", ""}, {NPM, "two", "1.0.0", "GHSA-2 CRITICAL 1.2.0 Two lines"}, {NPM, "two", "1.2.0", ""}, {NPM, "two", "1.9.0", ""},
			{NPM, "two", "2.0.0", "GHSA-2 CRITICAL  Two lines"}, {NPM, "two", "2.1.0", "GHSA-2 CRITICAL  Two lines"}, {NPM, "two", "2.1.1", ""}, {NPM, "two", "no version", ""},
			{PyPI, "Zope.Interface", "4.9.post1", "PYSEC-2023-1 MEDIUM 5.0 x"}, {PyPI, "zope_interface", "5.0rc1", "PYSEC-2023-1 MEDIUM 5.0 x"},
			{PyPI, "zope-interface", "5.0", ""}, {PyPI, "zope-interface", "7.0.odd", "PYSEC-2023-1 MEDIUM  x"},
			{Go, "example.com/m", "1.0.9", ""}, {Go, "example.com/m", "1.2.0+incompatible", "CVE-2022-1 UNKNOWN 1.3.0 y"}, {Go, "example.com/m", "1.3.0-0.20200101000000-abcdefabcdef", "CVE-2022-1 UNKNOWN 1.3.0 y"},
		} {
			found, err := d.Find(t.Context(), []Package{{Ecosystem: test.ecosystem, Name: test.name, Version: test.version}})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, fmt.Sprintf("%s %s %s %s", f.ID, f.Severity, f.Fixed, f.Summary))
			}
			want := strings.Split(test.want, "|")
			if len(got) > 1 || len(got) == 1 && !contains(want, got[0]) || len(got) == 0 && test.want != "" {
				t.Errorf("%s %s: %q, not %q", test.name, test.version, got, test.want)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, NPM, "all.zip.index")); err != nil {
			t.Errorf("no index is kept: %v", err)
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if strings.TrimSpace(x) == strings.TrimSpace(s) {
			return true
		}
	}
	return false
}

// TestIndexFollowsTheArchive has another archive take the place of the first.
func TestIndexFollowsTheArchive(t *testing.T) {
	dir := makeDatabase(t)
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := []Package{{Ecosystem: Go, Name: "example.com/new", Version: "1.0.0"}}
	if found, err := d.Find(t.Context(), p); len(found) > 0 || err != nil {
		t.Fatalf("%v, %v", found, err)
	}
	writeArchive(t, filepath.Join(dir, Go, "all.zip"), map[string]string{
		"n.json": `{"id":"N","affected":[{"package":{"ecosystem":"Go","name":"example.com/new"},"versions":["1.0.0"]}]}`,
	})
	if found, err := d.Find(t.Context(), p); len(found) != 1 || err != nil {
		t.Errorf("%v, %v", found, err)
	}
}

func TestBadDatabases(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	p := []Package{{Ecosystem: NPM, Name: "a", Version: "1.0.0"}}
	for name, write := range map[string]func(file string){
		"no archive":  func(file string) { _ = os.WriteFile(file, []byte("no zip"), 0o644) },
		"no advisory": func(file string) { writeArchive(t, file, map[string]string{"a.json": "[1]"}) },
		"too large": func(file string) {
			writeArchive(t, file, map[string]string{"a.json": strings.Repeat(" ", maxAdvisory+1)})
		},
		"a bad index":  func(file string) { writeArchive(t, file, nil); badIndex(t, file) },
		"not a number": func(file string) { writeArchive(t, file, map[string]string{"a.json": `{"affected":7}`}) },
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, NPM), 0o755); err != nil {
			t.Fatal(err)
		}
		write(filepath.Join(dir, NPM, "all.zip"))
		d, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Find(t.Context(), p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	d, err := Open(makeDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Find(ctx, p); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// badIndex writes an index that names a file which the archive does not have.
func badIndex(t *testing.T, archive string) {
	info, err := os.Stat(archive)
	if err != nil {
		t.Fatal(err)
	}
	kept := index{info.Size(), info.ModTime(), map[string][]int{"a": {99}}}
	if err := kept.save(archive + ".index"); err != nil {
		t.Fatal(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("package-lock.json", []byte(`{"packages":{"node_modules/a":{"version":"1"}}}`))
	f.Add("requirements.txt", []byte("a==1\n"))
	f.Add("poetry.lock", []byte("[[package]]\nname='a'\nversion='1'\n"))
	f.Add("Pipfile.lock", []byte(`{"default":{"a":{"version":"==1"}}}`))
	f.Add("go.mod", []byte("module x\nrequire a v1.0.0\n"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		packages, err := Read(name, data)
		if err != nil {
			return
		}
		for _, p := range packages {
			if p.Name == "" || p.Version == "" || p.Line < 0 {
				t.Errorf("%+v", p)
			}
		}
	})
}

func FuzzAdvisory(f *testing.F) {
	for _, files := range advisories {
		for _, text := range files {
			f.Add([]byte(text), "1.0.0")
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, version string) {
		a, err := readAdvisory(strings.NewReader(string(data)))
		if err != nil {
			return
		}
		for _, of := range a.Affected {
			for _, e := range []string{NPM, PyPI, Go} {
				a.hits(Package{Ecosystem: e, Name: of.Package.Name, Version: version})
			}
		}
	})
}
