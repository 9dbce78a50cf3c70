package native

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/toolchain"
)

// tool is one installed version of a program.
type tool struct {
	version *semver.Version
	said    string      // the version as the program writes it: 3.13.0rc1, go1.22
	bin     string      // the program's file, absolute
	hidden  bool        // on this host, and not shown to the machine: its prefix must be put there
	fetched bool        // by us, for this job or an earlier one
	kept    *cacheEntry // where a version fetched for an earlier job is kept: it must be mounted
}

// prefix is the directory that the tool is installed in: above bin/.
func (t tool) prefix() string { return path.Dir(path.Dir(t.bin)) }

// search says where a program is looked for.
type search struct {
	program string   // the file's name, for messages and PATH
	names   []string // of the file in a directory of PATH; may hold wildcards
	places  []string // patterns of files; ~ is a home directory, @ the tool cache
	version []string // arguments that make it tell its version
	parse   func(answer string) (version *semver.Version, said string, ok bool)

	// For tools that can be fetched:
	kind   toolchain.Tool
	semver func(version string) (*semver.Version, error) // of a version as lists write it
	// install puts an archive into the directory of its version in the tool cache; nil unpacks it there.
	install func(ctx context.Context, s *Step, archive, at string) error
}

// inPath tells the version from a directory's name: /v20.11.1/, /3.12.4/, /go1.22.3/, -go1.21.0.linux-amd64/. Pre-releases
// are not read from names: each tool writes its own way.
var inPath = regexp.MustCompile(`(?:/v?|[/-]go)(\d+\.\d+\.\d+)(?:\.[a-z][a-z0-9_.-]*)?(?:/[^/]+)?/bin/[^/]+$`)

// find lists the installed versions that the machine can run, the newest first. Of equal versions the first place
// counts.
func (q search) find(ctx context.Context, s *Step) ([]tool, error) {
	homes := []string{s.home()}
	if s.Host != nil && s.Host.Home != "" {
		homes = append(homes, s.Host.Home)
	}
	inside, err := s.expand(ctx, q.patterns(s, homes))
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", q.program, err)
	}
	var tools []tool
	var unknown []string
	for _, bin := range inside {
		if v := versionInPath(bin); v != nil {
			tools = append(tools, tool{version: v, said: v.Original(), bin: bin})
		} else {
			unknown = append(unknown, bin)
		}
	}
	asked, err := q.ask(ctx, s, unknown)
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", q.program, err)
	}
	tools = append(tools, asked...)
	tools = append(tools, q.hidden(s, inside)...)
	tools = append(tools, q.kept(ctx, s)...)
	slices.SortStableFunc(tools, func(a, b tool) int { return b.version.Compare(a.version) })
	return slices.CompactFunc(tools, func(a, b tool) bool { return a.version.Equal(b.version) }), nil
}

// patterns are the places with homes, tool caches and PATH filled in.
func (q search) patterns(s *Step, homes []string) []string {
	caches := []string{s.Sandbox.Info().ToolCache, s.variable("RUNNER_TOOL_CACHE"), "/opt/hostedtoolcache"}
	var out []string
	add := func(p string) {
		if path.IsAbs(p) && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, p := range q.places {
		switch {
		case strings.HasPrefix(p, "~/"):
			for _, h := range homes {
				add(h + p[1:])
			}
		case strings.HasPrefix(p, "@/"):
			for _, c := range caches {
				if c != "" {
					add(c + p[1:])
				}
			}
		default:
			add(p)
		}
	}
	search := s.variable("PATH")
	if search == "" {
		search = s.Sandbox.Info().Path
	}
	for dir := range strings.SplitSeq(search, ":") {
		if path.Base(dir) == "shims" {
			continue // of a version manager: what they lead to is among the places
		}
		for _, name := range q.names {
			add(path.Join(dir, name))
		}
	}
	return out
}

// expand gives the executable files that shell patterns name, in the machine.
func (s *Step) expand(ctx context.Context, patterns []string) ([]string, error) {
	const script = `IFS=; for p do for f in $p; do [ -f "$f" ] && [ -x "$f" ] && printf '%s\n' "$f"; done; done; :`
	out, err := s.answer(ctx, "/", append([]string{"sh", "-c", script, "sh"}, patterns...)...)
	if err != nil {
		return nil, err
	}
	var files []string
	for line := range strings.Lines(out) {
		if f := strings.TrimSuffix(line, "\n"); f != "" && !slices.Contains(files, f) {
			files = append(files, f)
		}
	}
	return files, nil
}

func versionInPath(bin string) *semver.Version {
	m := inPath.FindStringSubmatch(bin)
	if m == nil {
		return nil
	}
	v, err := semver.StrictNewVersion(m[1])
	if err != nil {
		return nil
	}
	return v
}

// ask runs programs to learn their versions; those that do not answer are left out.
func (q search) ask(ctx context.Context, s *Step, bins []string) ([]tool, error) {
	if len(bins) == 0 {
		return nil, nil
	}
	script := `for f do printf '%s\t' "$f"; "$f" ` + strings.Join(q.version, " ") + ` 2>&1 </dev/null | head -n 1; echo; done; :`
	out, err := s.answerEnv(ctx, "/", []string{"GOTOOLCHAIN=local"}, append([]string{"sh", "-c", script, "sh"}, bins...)...)
	if err != nil {
		return nil, err
	}
	var tools []tool
	for line := range strings.Lines(out) {
		bin, answer, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok || !slices.Contains(bins, bin) {
			continue
		}
		if v, said, ok := q.parse(strings.TrimSpace(answer)); ok {
			tools = append(tools, tool{version: v, said: said, bin: bin})
		}
	}
	return tools, nil
}

// hidden looks on this host into the user's home and the tool caches for versions that the machine does not show and
// that can be put there.
func (q search) hidden(s *Step, inside []string) []tool {
	if _, ok := s.Sandbox.(sandbox.Layered); !ok || s.Host == nil {
		return nil
	}
	var patterns []string
	for _, p := range q.places {
		switch {
		case strings.HasPrefix(p, "~/") && s.Host.Home != "":
			patterns = append(patterns, s.Host.Home+p[1:])
		case strings.HasPrefix(p, "@/"):
			for _, dir := range s.Host.Tools {
				patterns = append(patterns, dir+p[1:])
			}
		}
	}
	var tools []tool
	for _, p := range patterns {
		files, err := filepath.Glob(p)
		if err != nil {
			continue // a home with wildcards in its name
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 || slices.Contains(inside, f) {
				continue
			}
			if v := versionInPath(f); v != nil {
				tools = append(tools, tool{version: v, said: v.Original(), bin: f, hidden: true})
			}
		}
	}
	return tools
}

// show puts a kept tool into the machine, or a hidden one at the path that it has on the host: programs know where they
// are installed.
func (s *Step) show(ctx context.Context, t tool) error {
	if t.kept != nil {
		return s.mountKept(ctx, t)
	}
	if !t.hidden {
		return nil
	}
	layered := s.Sandbox.(sandbox.Layered) // hidden tools are found for layered machines alone
	if err := layered.Overlay(ctx, t.prefix(), t.prefix(), nil); err != nil {
		return fmt.Errorf("show %s to the machine: %w", t.prefix(), err)
	}
	return nil
}

func (s *Step) mountKept(ctx context.Context, t tool) error {
	layered, _ := s.layers() // kept tools are found for layered machines alone
	if err := layered.Mount(ctx, path.Dir(t.prefix()), t.kept.Parts[0].Layer); err != nil {
		return fmt.Errorf("put %s into the machine: %w", t.prefix(), err)
	}
	s.Host.Cache.touch(*t.kept)
	return nil
}

// missing says which versions there are instead of the one asked for, where they were looked for, why none was fetched, and
// what to do.
func (q search) missing(s *Step, what, spec string, why error, tools []tool, get string) error {
	var have []string
	for _, t := range tools {
		have = append(have, fmt.Sprintf("  %s (%s)", t.said, t.bin))
	}
	if len(have) == 0 {
		have = []string{"  none"}
	}
	home := s.home()
	if s.Host != nil {
		home = cmp.Or(s.Host.Home, home)
	}
	return fmt.Errorf("%s '%s' is not on this machine, and %v.\nThere is:\n%s\n"+
		"Looked for in PATH, the tool cache, the system's directories and the version managers of %s.\n"+
		"To get it: %s\nOr run with --no-native: then the original action downloads it.",
		what, spec, why, strings.Join(have, "\n"), home, get)
}

// newest is the newest tool that fits.
func newest(tools []tool, fits func(*semver.Version) bool) (tool, bool) {
	for _, t := range tools {
		if fits(t.version) {
			return t, true
		}
	}
	return tool{}, false
}

// inCache is the directory of a tool version in the machine's tool cache.
func (s *Step) inCache(name, version string) string {
	return path.Join(s.Sandbox.Info().ToolCache, name, version, s.arch())
}

// checkArchitecture refuses an architecture other than the machine's.
func (s *Step) checkArchitecture() error {
	want := strings.ToLower(s.input("architecture"))
	if want == "" || want == s.arch() || want == "amd64" && s.arch() == "x64" || want == "x32" && s.arch() == "ia32" {
		return nil
	}
	return fmt.Errorf("architecture '%s' is asked for, and this machine is %s. Run with --no-native to let the original action download it", want, s.arch())
}
