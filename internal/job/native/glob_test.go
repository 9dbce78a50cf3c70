package native

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestGlobFindsAsTheOriginal(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.files(map[string]string{
			"a.txt": "", "b.log": "", "dir/c.txt": "", "dir/sub/d.txt": "", "dir/.hidden/e.txt": "", "dir/.f": "", ".top/g.txt": "",
			"x[1].txt": "", "sp ace/h é.txt": "", "link": "-> dir/sub", "broken": "-> nowhere", "dir/loop": "-> ..", "~/h.txt": "",
		})
		work, home := j.box.Info().Workspace, j.box.Info().Home
		for _, c := range []struct {
			patterns string
			how      globbing
			want     string // files, relative to the workspace
			searched string
		}{
			{"*.txt", globbing{}, "a.txt x[1].txt", "."},
			{"**/*.txt", globbing{}, ".top/g.txt a.txt dir/.hidden/e.txt dir/c.txt dir/sub/d.txt link/d.txt sp_ace/h_é.txt x[1].txt", "."},
			{"dir", globbing{descend: true}, "dir/.f dir/.hidden/e.txt dir/c.txt dir/sub/d.txt", "dir"},
			{"dir", globbing{descend: true, skipHidden: true}, "dir/c.txt dir/sub/d.txt", "dir"},
			{"dir/\n!dir/sub", globbing{descend: true, skipHidden: true}, "dir/c.txt", "dir"},
			{"dir\n!**/*.txt\ndir/c.txt", globbing{descend: true}, "dir/.f dir/c.txt", "dir"},
			{".top", globbing{descend: true, skipHidden: true}, "", ".top"},
			{".top/*", globbing{descend: true, skipHidden: true}, "", ".top"},
			{"dir/.hidden/*.txt", globbing{skipHidden: true}, "", "dir/.hidden"},
			{"a.txt", globbing{descend: true}, "a.txt", "a.txt"},
			{"a.???", globbing{}, "a.txt", "."},
			{"[ab].*", globbing{}, "a.txt b.log", "."},
			{"[!a].*", globbing{}, "b.log", "."},
			{"x[[]1].txt", globbing{}, "x[1].txt", "x[1].txt"},
			{`x\[1].txt`, globbing{}, "x[1].txt", "x[1].txt"},
			{"{a,b}.*", globbing{}, "", "."},
			{"sp ace/*.txt", globbing{}, "sp_ace/h_é.txt", "sp ace"},
			{"dir/*/\na.txt", globbing{descend: true}, "a.txt dir/.hidden/e.txt dir/sub/d.txt", "dir a.txt"},
			{"# comment\n\n  a.txt  ", globbing{}, "a.txt", "a.txt"},
			{"missing\na.txt", globbing{descend: true}, "a.txt", "missing a.txt"},
			{"dir/**\n!dir/**/*.txt", globbing{}, "dir/.f", "dir"},
			{work + "/a.txt", globbing{}, "a.txt", "a.txt"},
			{"./a.txt", globbing{}, "a.txt", "a.txt"},
			{"~/h.txt", globbing{}, "~/h.txt", "~/h.txt"},
		} {
			s, _ := j.step("actions/cache@v4", nil)
			found, searched, err := s.glob(t.Context(), strings.Split(c.patterns, "\n"), c.how)
			if err != nil {
				t.Errorf("%q: %v", c.patterns, err)
				continue
			}
			name := func(p string) string {
				if p == work {
					return "."
				}
				p = strings.Replace(strings.TrimPrefix(p, work+"/"), home, "~", 1)
				return strings.ReplaceAll(p, " ", "_")
			}
			var got []string
			for _, e := range found {
				// Through the loop every file is found once more, as by the original.
				if !e.dir && !strings.Contains(e.path, "/loop/") {
					got = append(got, name(e.path))
				}
			}
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("%q %+v:\n got %s\nwant %s", c.patterns, c.how, g, c.want)
			}
			var places []string
			for _, p := range searched {
				places = append(places, name(p))
			}
			if g := strings.Join(places, " "); g != strings.ReplaceAll(c.searched, "sp ace", "sp_ace") {
				t.Errorf("%q: searched %s, want %s", c.patterns, g, c.searched)
			}
		}
		for _, bad := range []string{"../x", "a/../b", "a/./b", "/.."} {
			s, _ := j.step("actions/cache@v4", nil)
			if _, _, err := s.glob(t.Context(), []string{bad}, globbing{}); err == nil {
				t.Errorf("%q is taken", bad)
			}
		}
	})
}

func TestHashFilesIsTheRunners(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.files(map[string]string{"b/package-lock.json": "b", "a.lock": "a", "a/x.lock": "x", "d/l.lock": "-> ../a.lock", "e": "-> a", "broken.lock": "-> nowhere", "q/d.lock/inner": "i"})
		// The digest of the digests, as bytes, of the files in the order of a walk.
		want := func(files string) string {
			return strings.TrimSpace(j.sh("for f in " + files + "; do sha256sum $f; done | cut -c1-64 | tr -d '\\n' | xxd -r -p | sha256sum | cut -c1-64"))
		}
		for patterns, files := range map[string]string{
			"**/*.lock":                            "a/x.lock a.lock d/l.lock q/d.lock/inner",
			"--follow-symbolic-links\x00**/*.lock": "a/x.lock a.lock d/l.lock e/x.lock q/d.lock/inner",
			"**/*.lock\x00!a*":                     "d/l.lock q/d.lock/inner",
			"a.lock\nb":                            "a.lock b/package-lock.json",
			"e":                                    "",
		} {
			s, _ := j.step("actions/cache@v4", nil)
			got, err := s.HashFiles(t.Context(), strings.Split(patterns, "\x00"))
			expect := ""
			if files != "" {
				expect = want(files)
			}
			if err != nil || got != expect {
				t.Errorf("%q: got %s, %v, want %s of %s", patterns, got, err, expect, files)
			}
		}
		s, _ := j.step("actions/cache@v4", nil)
		if got, err := s.HashFiles(t.Context(), []string{"none"}); err != nil || got != "" {
			t.Errorf("nothing gives %q, %v", got, err)
		}
		if got, err := s.HashFiles(t.Context(), []string{"/etc/hostname"}); err != nil || got != "" {
			t.Errorf("a file outside gives %q, %v", got, err)
		}
		if _, err := s.HashFiles(t.Context(), []string{"--deep", "x"}); err == nil || !strings.HasPrefix(err.Error(), "Invalid glob option --deep") {
			t.Errorf("got %v", err)
		}
	})
}

func TestCommonDirectory(t *testing.T) {
	for _, c := range []struct{ paths, want string }{
		{"/foo /bar", "/"}, {"/a/foo/bar /a/foo/voo/two /a/foo/mo", "/a/foo"}, {"/a/b /a/bc", "/a"}, {"/a/b /a/b/c", "/a/b"},
	} {
		if got := commonDirectory(strings.Fields(c.paths)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.paths, got, c.want)
		}
	}
}

func TestNameMatcher(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "a", true}, {"*", ".a", false}, {".*", ".a", true}, {"report-*", "report-1", true}, {"report-*", "other", false},
		{"{a,b}-*", "b-1", true}, {"!a*", "b", true}, {"!a*", "ab", false}, {"#x", "#x", false}, {"[ab]", "b", true}, {"a?", "ab", true},
	} {
		match, err := nameMatcher(c.pattern)
		if err != nil || match(c.name) != c.want {
			t.Errorf("%s on %s: want %v (%v)", c.pattern, c.name, c.want, err)
		}
	}
	if _, err := nameMatcher("{a"); err == nil {
		t.Error("an open brace is taken")
	}
}

func FuzzPattern(f *testing.F) {
	for _, seed := range []string{"**/*.txt", "a/[b-z]?/**", "!~/x[!a]*", "[[:alpha:]]", "x[[]", `\*`, "[]-a]", "**/**/a/**"} {
		f.Add(seed, "a/b/c")
	}
	f.Fuzz(func(t *testing.T, text, p string) {
		pat, err := parsePattern(text, "/w", "/h")
		if err != nil {
			return
		}
		if !path.IsAbs(pat.search) || slices.Contains(strings.Split(pat.search, "/"), "..") {
			t.Errorf("%q is searched for at %q", text, pat.search)
		}
		set := patternSet{pat}
		_ = set.withDescendants().match("/w/"+p, false)
		if !strings.ContainsAny(text, "*?[\\!~") && !pat.dirOnly && !set.match(pat.search, false) {
			t.Errorf("%q does not match itself at %q", text, pat.search)
		}
	})
}

// slow tells what matchSegments says, by a regular expression.
func slow(segs []segment, names []string) bool {
	var b strings.Builder
	b.WriteString(`\A`)
	for i, s := range segs {
		switch {
		case s.globstar && i == len(segs)-1:
			b.WriteString(`(/[^/]+)+`)
		case s.globstar:
			b.WriteString(`(/[^/]+)*`)
		default:
			b.WriteString("/" + regexp.QuoteMeta(s.literal))
		}
	}
	return regexp.MustCompile(b.String() + `\z`).MatchString("/" + strings.Join(names, "/"))
}

func TestMatchSegmentsAgainstAllShortPatterns(t *testing.T) {
	var patterns, paths [][]string
	grow := func(alphabet []string, most int) (all [][]string) {
		last := [][]string{nil}
		for range most {
			var next [][]string
			for _, prefix := range last {
				for _, letter := range alphabet {
					next = append(next, append(slices.Clip(prefix), letter))
				}
			}
			all, last = append(all, next...), next
		}
		return all
	}
	patterns, paths = grow([]string{"a", "b", "**"}, 4), grow([]string{"a", "b"}, 5)
	for _, pat := range patterns {
		var segs []segment
		for _, name := range pat {
			segs = append(segs, segment{literal: name, globstar: name == "**"})
		}
		for _, names := range paths {
			if got, want := matchSegments(segs, names), slow(segs, names); got != want {
				t.Fatalf("%v on %v: got %v, want %v", pat, names, got, want)
			}
		}
	}
}
