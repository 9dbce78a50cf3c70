package workflow

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// The examples are those of GitHub's cheat sheet:
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#filter-pattern-cheat-sheet
func TestMatchPattern(t *testing.T) {
	for _, test := range []struct{ pattern, matches, others string }{
		// branches and tags
		{"feature/*", "feature/my-branch feature/your-branch", "feature feature/a/b xfeature/a"},
		{"feature/**", "feature/beta-a/my-branch feature/your-branch feature/mona/the/octocat", "feature"},
		{"main", "main", "Main main2 amain"},
		{"releases/mona-the-octocat", "releases/mona-the-octocat", "releases/mona"},
		{"*", "main releases", "all/the/branches"},
		{"**", "all/the/branches every/tag a", ""},
		{"*feature", "mona-feature feature ver-10-feature", "feature-x a/feature"},
		{"v2*", "v2 v2.0 v2.9", "v1 xv2 v2/a"},
		{"v[12].[0-9]+.[0-9]+", "v1.10.1 v2.0.0", "v3.0.0 v1.0 v1.a.0 v1x0.0"},
		// paths
		{"*.jsx?", "page.js page.jsx", "page.jsxx a/page.js .jsx/"},
		{"*.js", "app.js index.js", "js/index.js"},
		{"**.js", "index.js js/index.js src/js/app.js", "index.jsx"},
		{"docs/*", "docs/README.md docs/file.txt", "docs/mona/octocat.txt docs"},
		{"docs/**", "docs/README.md docs/mona/octocat.txt", "xdocs/a"},
		{"docs/**/*.md", "docs/README.md docs/mona/hello-world.md docs/a/markdown/file.md", "docs/a.txt"},
		{"**/docs/**", "docs/hello.md dir/docs/my-file.txt space/docs/plan/space.doc", "docs xdocs/a"},
		{"**/README.md", "README.md js/README.md", "xREADME.md README.md/x"},
		{"**/*src/**", "a/src/app.js my-src/code/js/app.js", "src"},
		{"**/*-post.md", "my-post.md path/their-post.md", "post.md"},
		{"**/migrate-*.sql", "migrate-10909.sql db/migrate-v1.0.sql db/sept/migrate-v1.sql", "migrate-.sqlx"},
		// the rest of the language
		{"a+", "a aa aaa", "b ab +"},
		{"[abc]x", "ax bx cx", "dx x [abc]x"},
		{"[a-c-]", "a b c -", "d"},
		{"[]", "[]", "a"},
		{"[a", "[a", "a"},
		{"?a+", "?a ?aa", "a"},
		{"+", "+", ""},
		{`\*`, "*", "a \\*"},
		{`a\`, `a\`, "a"},
		{"a.b", "a.b", "axb"},
		{"(x)|{y}^$", "(x)|{y}^$", "x"},
		{"日本*", "日本語", "日"},
		{"[é-ü]", "é ö", "e"},
		{"**/x", "x a/x a/b/x", "ax"},
		{"*?", "a", "a/b"},
		{"a++", "a aa", "b"},
		{"", "", "a"},
	} {
		for name := range strings.FieldsSeq(test.matches) {
			if ok, err := MatchPattern(test.pattern, name); !ok || err != nil {
				t.Errorf("%q does not match %q: %v", test.pattern, name, err)
			}
		}
		for name := range strings.FieldsSeq(test.others) {
			if ok, err := MatchPattern(test.pattern, name); ok || err != nil {
				t.Errorf("%q matches %q: %v", test.pattern, name, err)
			}
		}
	}
	if _, err := MatchPattern(strings.Repeat("a", maxPattern+1), "a"); err == nil {
		t.Error("a pattern that is too long was taken")
	}
}

func TestMatchPatterns(t *testing.T) {
	for _, test := range []struct {
		patterns, matches, others string
	}{
		{"*.md !README.md", "hello.md", "README.md docs/hello.md"},
		{"*.md !README.md README*", "hello.md README.md README.doc", "x.txt"},
		{"releases/** !releases/**-alpha", "releases/10 releases/beta/mona", "releases/10-alpha main"},
		{"!main", "", "main dev"},
		{"", "", "main"},
	} {
		patterns := strings.Fields(test.patterns)
		for name := range strings.FieldsSeq(test.matches) {
			if !MatchPatterns(patterns, name) {
				t.Errorf("%q do not match %q", patterns, name)
			}
		}
		for name := range strings.FieldsSeq(test.others) {
			if MatchPatterns(patterns, name) {
				t.Errorf("%q match %q", patterns, name)
			}
		}
	}
}

func FuzzMatchPattern(f *testing.F) {
	for _, seed := range []string{"a", "**/x*[a-z]+?\\!", "[", "[]", "[z-a]", "\\", "?+*", "\xff[\xfe-\xff]", "a" + strings.Repeat("+", 1500)} {
		f.Add(seed, "a/b")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		_, err := MatchPattern(pattern, name)
		if err != nil && len(pattern) <= maxPattern {
			t.Fatalf("%q: %v", pattern, err)
		}
		// What has no special characters matches itself and nothing else.
		if !strings.ContainsAny(pattern, `*?+[]\!`) && len(pattern) <= maxPattern && utf8.ValidString(pattern) {
			if ok, err := MatchPattern(pattern, name); err != nil || ok != (pattern == name) {
				t.Fatalf("%q with %q: %t, %v", pattern, name, ok, err)
			}
		}
	})
}
