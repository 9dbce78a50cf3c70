package native

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/penstock-ci/penstock/internal/toolchain"
)

// setupPython is actions/setup-python with the CPython versions that are on the machine, or else fetched. The job gets a Python of
// its own in the tool cache: the interpreter of the machine, with nothing but pip installed, so that what the user
// has installed neither helps the job nor is changed by it.
type setupPython struct{}

var pythonSearch = search{
	program: "python",
	names:   []string{"python3.[0-9]", "python3.[0-9][0-9]", "python3", "python"},
	places: []string{
		"@/Python/*/*/bin/python3.[0-9]", "@/Python/*/*/bin/python3.[0-9][0-9]",
		"~/.pyenv/versions/*/bin/python3.[0-9]", "~/.pyenv/versions/*/bin/python3.[0-9][0-9]",
		"~/.asdf/installs/python/*/bin/python3.[0-9]", "~/.asdf/installs/python/*/bin/python3.[0-9][0-9]",
		"~/.local/share/mise/installs/python/*/bin/python3.[0-9]", "~/.local/share/mise/installs/python/*/bin/python3.[0-9][0-9]",
		"~/.local/share/uv/python/cpython-*/bin/python3.[0-9]", "~/.local/share/uv/python/cpython-*/bin/python3.[0-9][0-9]",
		"~/.rye/py/cpython@*/bin/python3.[0-9][0-9]", "/opt/python*/bin/python3.[0-9][0-9]", "/opt/python/*/bin/python3.[0-9][0-9]",
		"/usr/local/bin/python3.[0-9]", "/usr/local/bin/python3.[0-9][0-9]",
		"/usr/bin/python3.[0-9]", "/usr/bin/python3.[0-9][0-9]",
		"/opt/homebrew/opt/python@*/bin/python3.[0-9][0-9]", "/usr/local/opt/python@*/bin/python3.[0-9][0-9]",
		"/Library/Frameworks/Python.framework/Versions/*/bin/python3.[0-9][0-9]",
	},
	version: []string{"--version"},
	parse: func(answer string) (*semver.Version, string, bool) {
		said, ok := strings.CutPrefix(answer, "Python ")
		if !ok {
			return nil, "", false
		}
		said, _, _ = strings.Cut(said, "+") // built from a commit after the version
		v, err := semver.StrictNewVersion(pythonSemver(said))
		return v, said, err == nil
	},
	kind:    toolchain.Python,
	semver:  semver.StrictNewVersion,
	install: installPython,
}

var pythonPre = regexp.MustCompile(`(\d+\.\d+\.\d+)((?:a|b|rc)\d*)`)

// pythonSemver turns Python's pre-releases into semantic ones: 3.13.0rc1 is 3.13.0-rc1.
func pythonSemver(text string) string { return pythonPre.ReplaceAllString(text, "$1-$2") }

func (setupPython) Main(ctx context.Context, s *Step) error {
	specs, err := pythonVersions(ctx, s)
	if err != nil {
		return err
	}
	if len(specs) == 0 {
		s.warning("The `python-version` input is not set.  The version of Python currently in `PATH` will be used.")
		return s.addMatchers(ctx, matchPython)
	}
	version := ""
	err = s.group("Installed versions", func() error {
		for _, spec := range specs {
			if version, err = usePython(ctx, s, spec); err != nil {
				return err
			}
			s.info("Successfully set up CPython (%s)", version)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if name := s.input("cache"); name != "" && s.Host != nil && s.Host.Cache != nil {
		if err := pythonCache(ctx, s, name, version); err != nil {
			return err
		}
	}
	return s.addMatchers(ctx, matchPython)
}

var (
	pythonMinor = regexp.MustCompile(`^(\d+)\.(\d+)$`)
	pythonDev   = regexp.MustCompile(`^(\d+)\.(\d+)-dev$`)
	pythonFree  = regexp.MustCompile(`^\d+\.\d+(\.\d+)?t(-dev)?$`)
	pipVersion  = regexp.MustCompile(`^\d+(\.\d+)?(\.\d+)?$`)
)

// usePython makes the version a job asks for its python and gives the version it is.
func usePython(ctx context.Context, s *Step, spec string) (string, error) {
	pre, err := s.flag("allow-prereleases")
	if err != nil {
		return "", err
	}
	free, err := s.flag("freethreaded")
	if err != nil {
		return "", err
	}
	update, err := s.flag("update-environment")
	if err != nil {
		return "", err
	}
	pip := s.input("pip-version")
	if pip != "" && !pipVersion.MatchString(pip) {
		return "", fmt.Errorf("Invalid pip-version \"%s\". Please specify a version in the format major[.minor][.patch].", pip)
	}
	if err := refusePython(s, spec, free); err != nil {
		return "", err
	}
	fits, err := pythonFits(spec, pre)
	if err != nil {
		return "", err
	}
	latest, err := s.flag("check-latest")
	if err != nil {
		return "", err
	}
	tools, err := pythonSearch.find(ctx, s)
	if err != nil {
		return "", err
	}
	t, ok, why, err := s.choose(ctx, wanted{
		search: pythonSearch, newest: latest,
		fits: func([]*semver.Version, *toolchain.List) (func(*semver.Version) bool, error) { return fits, nil },
		of:   func(top *semver.Version) func(*semver.Version) bool { return top.Equal },
	}, tools)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", pythonSearch.missing(s, "Python", spec, why, tools, fmt.Sprintf("`pyenv install %s`, `uv python install %[1]s`, or the system's packages",
			cmpOr(regexp.MustCompile(`\d+(\.\d+)*`).FindString(spec), spec)))
	}
	if err := s.show(ctx, t); err != nil {
		return "", err
	}
	dir, err := makePython(ctx, s, t)
	if err != nil {
		return "", fmt.Errorf("set up Python %s from %s: %w", t.said, t.bin, err)
	}
	if update {
		exportPython(s, dir)
	}
	s.output("python-version", t.said)
	s.output("python-path", dir+"/bin/python")
	if pip != "" {
		s.info("pip-version input is specified. Installing pip version %s", pip)
		err = s.run(ctx, s.workspace(), dir+"/bin/python", "-m", "pip", "install", "--upgrade", "pip=="+pip, "--disable-pip-version-check", "--no-warn-script-location")
	}
	return t.said, err
}

// refusePython says no to what no version of CPython on the machine can be.
func refusePython(s *Step, spec string, free bool) error {
	for _, other := range []string{"pypy", "graalpy"} {
		if strings.HasPrefix(spec, other) {
			return fmt.Errorf("'%s' is asked for, and the built-in setup-python takes CPython from this machine only. Run with --no-native to let the original action download it", spec)
		}
	}
	if free || pythonFree.MatchString(spec) {
		return fmt.Errorf("a free-threaded Python ('%s') is asked for, and the built-in setup-python does not look for those. Run with --no-native to let the original action download it", spec)
	}
	if strings.HasPrefix(spec, "2") {
		s.warning("The support for python 2.7 was removed on June 19, 2023. Related issue: https://github.com/actions/setup-python/issues/672")
	}
	return s.checkArchitecture()
}

// pythonFits says which versions a spec means (pythonVersionToSemantic of src/find-python.ts).
func pythonFits(spec string, pre bool) (func(*semver.Version) bool, error) {
	text := pythonDev.ReplaceAllString(spec, "~$1.$2.0-0")
	text = pythonSemver(text)
	if pre {
		text = pythonMinor.ReplaceAllString(text, "~$1.$2.0-0")
	}
	fits := versionRange(text)
	if fits == nil {
		return nil, fmt.Errorf("The version '%s' is neither a version of Python nor a range of versions", spec)
	}
	return fits, nil
}

func exportPython(s *Step, dir string) {
	s.export("pythonLocation", dir)
	s.export("PKG_CONFIG_PATH", dir+"/lib/pkgconfig")
	for _, name := range []string{"Python_ROOT_DIR", "Python2_ROOT_DIR", "Python3_ROOT_DIR"} {
		s.export(name, dir)
	}
	if s.Sandbox.Info().OS == "Linux" {
		libs := dir + "/lib"
		if before := s.variable("LD_LIBRARY_PATH"); before != "" && !slices.Contains(strings.Split(before, ":"), libs) {
			libs += ":" + before
		}
		s.export("LD_LIBRARY_PATH", libs)
	}
	s.addPath(dir)
	s.addPath(dir + "/bin")
}

// pythonFacts are what an interpreter says of itself, one a line.
const pythonFacts = `
import importlib.util, os, sys, sysconfig
p = sysconfig.get_paths()
print(os.path.realpath(sys.executable))
print(sys.base_prefix)
print(sysconfig.get_config_var("LIBDIR") or "")
print("%d.%d" % sys.version_info[:2])
pip = importlib.util.find_spec("pip")
print(os.path.dirname(os.path.dirname(os.path.realpath(pip.origin))) if pip and pip.origin else "")
bundled = ""
for d in (os.path.join(p["stdlib"], "ensurepip", "_bundled"), "/usr/share/python-wheels", sysconfig.get_config_var("WHEEL_PKG_DIR") or ""):
    if d and os.path.isdir(d):
        for n in sorted(os.listdir(d)):
            if n.startswith("pip-") and n.endswith(".whl"):
                bundled = os.path.join(d, n)
print(bundled)
`

// toolScope is the scope of what the natives keep for themselves in the cache: no run has it.
const toolScope = "penstock tools"

// installPython lets the script of a build of actions/python-versions install it, as the original does.
func installPython(ctx context.Context, s *Step, archive, at string) error {
	temp := path.Join(s.Sandbox.Info().Temp, "python-"+path.Base(at))
	if err := s.unpackTool(ctx, archive, temp); err != nil {
		return err
	}
	cache := path.Dir(path.Dir(at))
	err := s.runEnv(ctx, path.Join(temp, s.arch()), []string{"AGENT_TOOLSDIRECTORY=" + cache, "RUNNER_TOOL_CACHE=" + cache}, "bash", "./setup.sh")
	_, bad := s.answer(context.WithoutCancel(ctx), "/", "rm", "-rf", "--", temp)
	return errors.Join(err, bad)
}

// makePython gives the job a Python of its own in the tool cache. On a machine with layers it is made once and mounted
// from then on.
func makePython(ctx context.Context, s *Step, t tool) (dir string, err error) {
	dir = s.inCache("Python", t.said)
	if t.prefix() == dir {
		return dir, nil // it is a tool of the tool cache, and has its directory for itself
	}
	if kind, err := s.kind(ctx, dir+"/pyvenv.cfg"); err != nil || kind == "file" {
		return dir, err // an earlier step made it
	}
	layered, ok := s.layers()
	if !ok {
		return dir, buildPython(ctx, s, t, dir)
	}
	identity, err := s.answer(ctx, "/", "stat", "-L", "-c", "%s %Y", "--", t.bin)
	if err != nil {
		return "", err
	}
	e := cacheEntry{Scope: toolScope, Version: "python 1", Key: digest(dir, t.bin, t.said, identity)}
	if found, err := s.Host.Cache.find([]string{e.Scope}, e.Version, []string{e.Key}); err == nil && found != nil {
		if len(found.Parts) == 1 && layered.Mount(ctx, dir, found.Parts[0].Layer) == nil {
			return dir, nil
		}
	}
	if err := layered.Mount(ctx, dir); err != nil {
		return "", err
	}
	if err := buildPython(ctx, s, t, dir); err != nil {
		return "", err
	}
	id, err := layered.Capture(ctx, dir)
	if err == nil {
		e.Parts = []cachePart{{Path: strings.TrimPrefix(dir, "/"), Layer: id}}
		err = s.Host.Cache.add(e)
	}
	if err != nil && !errors.Is(err, ErrCacheExists) {
		s.debug("this Python is not kept for the next job: %v", err)
	}
	return dir, ctx.Err()
}

// buildPython makes a Python on the machine's interpreter: what `python -m venv` makes, with the machine's pip copied
// into it, which takes a tenth of installing one.
func buildPython(ctx context.Context, s *Step, t tool, dir string) error {
	out, err := s.answer(ctx, "/", t.bin, "-I", "-c", pythonFacts)
	if err != nil {
		return err
	}
	facts := strings.Split(out+"\n\n", "\n")
	if len(facts) < 6 {
		return fmt.Errorf("unexpected answer: %q", out)
	}
	bin, base, libs, minor, pip, wheel := facts[0], facts[1], facts[2], facts[3], facts[4], facts[5]
	site := "lib/python" + minor + "/site-packages"
	files := []file{
		{name: "pyvenv.cfg", data: fmt.Sprintf("home = %s\ninclude-system-site-packages = false\nversion = %s\nexecutable = %s\n", path.Dir(bin), t.said, bin)},
		{name: "bin/python" + minor, link: bin},
		{name: "bin/python3", link: "python" + minor},
		{name: "bin/python", link: "python" + minor},
		{name: site + "/"},
		{name: "include", link: path.Join(base, "include")},
		{name: "lib/pkgconfig", link: path.Join(cmpOr(libs, base+"/lib"), "pkgconfig")},
	}
	for _, name := range []string{"pip", "pip3", "pip" + minor} {
		files = append(files, file{name: "bin/" + name, mode: 0o755, data: "#!" + dir + "/bin/python" + minor + "\n" +
			"import sys\nfrom pip._internal.cli.main import main\nif __name__ == \"__main__\":\n    sys.exit(main())\n"})
	}
	if err := s.put(ctx, dir, files...); err != nil {
		return err
	}
	return copyPip(ctx, s, path.Join(dir, site), dir+"/bin/python", pip, wheel, minor)
}

// copyPip puts pip, and with older Pythons setuptools, into site-packages: the copy that the interpreter has, or the
// wheel that comes with it.
func copyPip(ctx context.Context, s *Step, site, python, from, wheel, minor string) error {
	switch {
	case from != "":
		packages := []string{"pip", "pip-[0-9]*-info"}
		if v, err := semver.NewVersion(minor); err == nil && v.Minor() < 12 {
			packages = append(packages, "setuptools", "setuptools-[0-9]*-info", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
		}
		script := `from=$1 to=$2; shift 2; cd "$from" && for p do for f in $p; do [ ! -e "$f" ] || cp -RLp "$f" "$to/" || exit; done; done`
		_, err := s.answer(ctx, "/", append([]string{"sh", "-c", script, "sh", from, site}, packages...)...)
		return err
	case wheel != "":
		_, err := s.answer(ctx, "/", python, "-m", "zipfile", "-e", wheel, site)
		return err
	}
	s.warning("This Python has no pip: install the system's package for it (python3-pip or python3-venv) to have pip in the job")
	return nil
}
