package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/penstock-ci/penstock/internal/toolchain"
)

// setupGo is actions/setup-go with the Go versions that are on the machine, or else fetched.
type setupGo struct{}

var goSearch = search{
	program: "go",
	names:   []string{"go"},
	places: []string{
		"@/go/*/*/bin/go",
		"/usr/local/go/bin/go", "/usr/local/go*/bin/go", "~/sdk/go*/bin/go", "~/go/pkg/mod/golang.org/toolchain@*/bin/go",
		"~/.asdf/installs/golang/*/go/bin/go", "~/.local/share/mise/installs/go/*/bin/go", "~/.goenv/versions/*/bin/go",
		"~/.gvm/gos/*/bin/go", "/usr/lib/go-*/bin/go", "/opt/go*/bin/go", "/snap/go/current/bin/go",
		"/opt/homebrew/opt/go*/libexec/bin/go", "/usr/local/opt/go*/libexec/bin/go",
	},
	version: []string{"version"},
	parse: func(answer string) (*semver.Version, string, bool) {
		f := strings.Fields(answer) // go version go1.26.1 linux/amd64
		if len(f) < 3 || f[0] != "go" {
			return nil, "", false
		}
		v, err := goSemver(f[2])
		return v, strings.TrimPrefix(f[2], "go"), err == nil
	},
	kind:   toolchain.Go,
	semver: goSemver,
}

var goVersionParts = regexp.MustCompile(`^(?:go)?(\d+(?:\.\d+){0,2})(?:(beta|rc)(\d+))?`)

// goSemver turns Go's way of writing versions into semantic ones: 1.13 is 1.13.0, 1.10beta1 is 1.10.0-beta.1.
func goSemver(text string) (*semver.Version, error) {
	m := goVersionParts.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("The version: %s can't be changed to SemVer notation", text)
	}
	full := m[1]
	if m[2] != "" {
		full += strings.Repeat(".0", 2-strings.Count(full, ".")) + "-" + m[2] + "." + m[3]
	}
	return semver.NewVersion(full)
}

func (setupGo) Main(ctx context.Context, s *Step) error {
	spec, err := goVersion(ctx, s)
	if err != nil {
		return err
	}
	s.export("GOTOOLCHAIN", "local")
	cache, err := s.flag("cache")
	if err != nil {
		return err
	}
	s.info("Setup go version spec %s", spec)
	if spec == "" {
		s.info("[warning]go-version input was not specified. The action will try to use pre-installed version.")
	} else if err := useGo(ctx, s, spec); err != nil {
		return err
	}
	if err := goBin(ctx, s); err != nil {
		return err
	}
	said, err := s.answer(ctx, s.workspace(), "go", "version")
	if err != nil {
		return fmt.Errorf("go does not run: %w", err)
	}
	_, version, ok := goSearch.parse(said)
	if !ok {
		return fmt.Errorf("go version: unexpected answer: %s", said)
	}
	if cache && s.Host != nil && s.Host.Cache != nil {
		if err := goCache(ctx, s, version); err != nil {
			s.warning("Restore cache failed: %v", err)
		}
	}
	if err := s.addMatchers(ctx, matchGo); err != nil {
		return err
	}
	s.info("%s", said)
	s.output("go-version", version)
	return s.group("go env", func() error {
		env, err := s.answer(ctx, s.workspace(), "go", "env")
		s.info("%s", env)
		return err
	})
}

func useGo(ctx context.Context, s *Step, spec string) error {
	if err := s.checkArchitecture(); err != nil {
		return err
	}
	if s.input("go-download-base-url") != "" || s.variable("GO_DOWNLOAD_BASE_URL") != "" {
		s.warning("go-download-base-url has no effect: where Go is fetched from is for the machine to say. Run with --no-native to let the original action use it")
	}
	latest, err := s.flag("check-latest")
	if err != nil {
		return err
	}
	tools, err := goSearch.find(ctx, s)
	if err != nil {
		return err
	}
	alias := spec == "stable" || spec == "oldstable"
	w := wanted{search: goSearch, newest: latest || alias}
	w.fits = func(versions []*semver.Version, _ *toolchain.List) (func(*semver.Version) bool, error) {
		return goFits(spec, versions)
	}
	w.of = func(top *semver.Version) func(*semver.Version) bool { return top.Equal }
	t, ok, why, err := s.choose(ctx, w, tools)
	if err != nil {
		return err
	}
	if !ok {
		return goSearch.missing(s, "Go", spec, why, tools, fmt.Sprintf("`go install golang.org/dl/go%s@latest && go%[1]s download`, or https://go.dev/dl",
			cmpOr(regexp.MustCompile(`\d+(\.\d+)*`).FindString(spec), "1.x.y")))
	}
	if alias {
		s.info("%s version resolved as %s", spec, t.said)
	}
	if err := s.show(ctx, t); err != nil {
		return err
	}
	s.info("Found in cache @ %s", t.prefix())
	bin := path.Dir(t.bin)
	if !ownPrefix(t) {
		root, err := s.answerEnv(ctx, "/", nil, t.bin, "env", "GOROOT")
		if err != nil {
			return err
		}
		bin = path.Join(strings.TrimSpace(root), "bin")
	}
	s.addPath(bin)
	s.info("Added go to the path")
	s.info("Successfully set up Go version %s", spec)
	return nil
}

// goFits says which versions a spec means; stable and oldstable are those of the versions that are there, the newest first.
func goFits(spec string, versions []*semver.Version) (func(*semver.Version) bool, error) {
	stable := func(v *semver.Version) bool { return v.Prerelease() == "" }
	switch spec {
	case "stable", "oldstable":
		i := slices.IndexFunc(versions, stable)
		if i < 0 || spec == "stable" {
			return stable, nil
		}
		top := versions[i]
		return func(v *semver.Version) bool { return stable(v) && v.Minor() < top.Minor() }, nil
	}
	if m := goVersionParts.FindStringSubmatch(spec); m != nil && m[0] == spec && m[2] != "" {
		want, err := goSemver(spec)
		if err != nil {
			return nil, err
		}
		return want.Equal, nil
	}
	fits := versionRange(strings.ReplaceAll(spec, "go", ""))
	if fits == nil {
		return nil, fmt.Errorf("Unable to find Go version '%s': it is neither a version, a range, stable nor oldstable", spec)
	}
	return fits, nil
}

// goBin puts GOPATH/bin into PATH, made if it is missing.
func goBin(ctx context.Context, s *Step) error {
	gopath, err := s.answer(ctx, s.workspace(), "go", "env", "GOPATH")
	if err != nil || gopath == "" {
		s.debug("go not in the path: %v", err)
		return ctx.Err()
	}
	bin := path.Join(strings.Split(gopath, ":")[0], "bin")
	if _, err := s.answer(ctx, "/", "mkdir", "-p", "--", bin); err != nil {
		return err
	}
	s.addPath(bin)
	return nil
}

func goVersion(ctx context.Context, s *Step) (string, error) {
	version, from := s.input("go-version"), s.input("go-version-file")
	if version != "" && from != "" {
		s.warning("Both go-version and go-version-file inputs are specified, only go-version will be used")
	}
	if version != "" || from == "" {
		return version, nil
	}
	text, err := s.read(ctx, s.abs(from))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("The specified go version file at: %s does not exist", from)
	}
	if err != nil {
		return "", err
	}
	return goVersionFile(path.Base(from), text, s.variable("GOTOOLCHAIN") == "local"), nil
}

var (
	goToolchain = regexp.MustCompile(`(?m)^toolchain go(1\.\d+(?:\.\d+|rc\d+)?)`)
	goDirective = regexp.MustCompile(`(?m)^go (\d+(\.\d+)*)`)
	goTool      = regexp.MustCompile(`(?m)^golang\s+([^\n#]+)`)
)

// goVersionFile reads go.mod, go.work, .tool-versions or a file with nothing but a version. The toolchain line does
// not count where GOTOOLCHAIN is "local" already.
func goVersionFile(name, text string, local bool) string {
	first := func(re *regexp.Regexp) string {
		if m := re.FindStringSubmatch(text); m != nil {
			return strings.TrimSpace(m[1])
		}
		return ""
	}
	switch name {
	case "go.mod", "go.work":
		if v := first(goToolchain); v != "" && !local {
			return v
		}
		return first(goDirective)
	case ".tool-versions":
		return first(goTool)
	}
	return strings.TrimSpace(text)
}

// goCache restores Go's module and build caches.
func goCache(ctx context.Context, s *Step, version string) error {
	var dirs []string
	for _, name := range []string{"GOMODCACHE", "GOCACHE"} {
		s.info("[command]go env %s", name)
		dir, err := s.answer(ctx, s.workspace(), "go", "env", name)
		if err != nil {
			s.info("[warning]getting cache directory path failed: %v", err)
			continue
		}
		if dir != "" && dir != "off" {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return errors.New("Could not get cache folder paths.")
	}
	dependencies := s.lines("cache-dependency-path")
	if len(dependencies) == 0 {
		file := path.Join(s.workspace(), "go.mod")
		kind, err := s.kind(ctx, file)
		if err != nil {
			return err
		}
		if kind == "" {
			return fmt.Errorf("Dependencies file is not found in %s. Supported file pattern: go.mod", s.workspace())
		}
		dependencies = []string{globEscape(file)}
	}
	hash, err := s.hashFiles(ctx, dependencies, globbing{descend: true})
	if err != nil {
		return err
	}
	if hash == "" {
		return errors.New("Some specified paths were not resolved, unable to cache dependencies.")
	}
	info := s.Sandbox.Info()
	image := ""
	if info.OS == "Linux" {
		image = cmpOr(s.variable("ImageOS"), info.Provider) + "-"
	}
	key := fmt.Sprintf("setup-go-%s-%s-%sgo-%s-%s", info.OS, s.arch(), image, version, hash)
	matched, err := restoreTool(ctx, s, dirs, key)
	if err != nil {
		return err
	}
	s.output("cache-hit", fmt.Sprint(matched != ""))
	if matched == "" {
		s.info("Cache is not found")
	}
	return nil
}

// PostIf is the original's: a failed job saves nothing.
func (setupGo) PostIf() string { return "success()" }

func (setupGo) Post(ctx context.Context, s *Step) error {
	if cache, err := s.flag("cache"); err != nil || !cache {
		return nil
	}
	return postCache(ctx, s)
}
