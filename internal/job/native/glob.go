package native

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// entry is something in the machine's file system: what a symbolic link leads to counts for the link.
type entry struct {
	path string // absolute
	dir  bool
	size int64
}

// maxDepth is deeper than any tree that is meant: where a list of a directory ends.
const maxDepth = 512

// list gives what is at and below the roots down to a depth (0: the roots themselves), links followed, in the order
// of a walk: a directory before its content, names in byte order. Roots that do not exist and links that lead
// nowhere, or round in a circle, are left out.
func (s *Step) list(ctx context.Context, roots []string, depth int) ([]entry, error) {
	return s.listLinks(ctx, roots, depth, true)
}

// listLinks is list, and without follow it does not look into directories behind links.
func (s *Step) listLinks(ctx context.Context, roots []string, depth int, follow bool) ([]entry, error) {
	if len(roots) == 0 {
		return nil, nil
	}
	var entries []entry
	var err error
	if s.direct() {
		for _, root := range roots {
			entries = walk(entries, filepath.FromSlash(root), depth, follow, nil)
		}
	} else {
		entries, err = s.find(ctx, roots, depth, follow)
	}
	slices.SortFunc(entries, func(a, b entry) int { return comparePaths(a.path, b.path) })
	return slices.CompactFunc(entries, func(a, b entry) bool { return a.path == b.path }), err
}

// direct says that the machine's files are this host's at the same paths.
func (s *Step) direct() bool { return s.Sandbox.Info().Provider == "none" }

// find lists by the machine's own find, since only a process inside sees its file system.
func (s *Step) find(ctx context.Context, roots []string, depth int, follow bool) ([]entry, error) {
	links := "-P"
	if follow {
		links = "-L"
	}
	args := append([]string{"find", links}, roots...)
	args = append(args, "-maxdepth", strconv.Itoa(depth), "-printf", `%Y %s %p\0`)
	stdout, stderr := &limited{max: maxList}, &limited{max: 4 << 10}
	err := s.Sandbox.Exec(ctx, sandbox.Command{Args: args, Env: s.environ("LC_ALL=C"), Dir: "/", Stdout: stdout, Stderr: stderr})
	// Exit code 1 is a root that is missing, a directory that may not be read or a circle of links: find goes on.
	var exit *sandbox.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.Code == 1) {
		return nil, fmt.Errorf("list %s: %s: %w", strings.Join(roots, ", "), strings.TrimSpace(stderr.String()), err)
	}
	if stdout.over {
		return nil, fmt.Errorf("list %s: too many files", strings.Join(roots, ", "))
	}
	var entries []entry
	for record := range bytes.SplitSeq(stdout.Bytes(), []byte{0}) {
		f := bytes.SplitN(record, []byte{' '}, 3)
		if len(f) != 3 || len(f[0]) != 1 || f[0][0] == 'l' || f[0][0] == 'L' || f[0][0] == 'N' {
			continue
		}
		size, err := strconv.ParseInt(string(f[1]), 10, 64)
		if err != nil {
			continue
		}
		entries = append(entries, entry{path: path.Clean(string(f[2])), dir: f[0][0] == 'd', size: size})
	}
	return entries, nil
}

// maxList bounds the list of a tree, bytes: some two million files.
const maxList = 256 << 20

// walk lists this host's own files. chain holds the directories above, to see circles of links.
func walk(entries []entry, name string, depth int, follow bool, chain []os.FileInfo) []entry {
	info, err := os.Stat(name)
	if err != nil {
		return entries
	}
	e := entry{path: filepath.ToSlash(name), dir: info.IsDir(), size: info.Size()}
	if !e.dir {
		return append(entries, e)
	}
	if slices.ContainsFunc(chain, func(above os.FileInfo) bool { return os.SameFile(above, info) }) || len(chain) > maxDepth {
		return entries
	}
	entries = append(entries, e)
	if depth == 0 || !follow && isLink(name) {
		return entries
	}
	children, err := os.ReadDir(name)
	if err != nil {
		return entries
	}
	chain = append(slices.Clip(chain), info)
	for _, c := range children {
		entries = walk(entries, filepath.Join(name, c.Name()), depth-1, follow, chain)
	}
	return entries
}

func isLink(name string) bool {
	info, err := os.Lstat(name)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

// comparePaths orders paths as a walk meets them: by name at each level.
func comparePaths(a, b string) int {
	for {
		a1, a2, aMore := strings.Cut(a, "/")
		b1, b2, bMore := strings.Cut(b, "/")
		if c := strings.Compare(a1, b1); c != 0 {
			return c
		}
		if !aMore || !bMore {
			return cmp.Compare(len(a2), len(b2))
		}
		a, b = a2, b2
	}
}

// globbing says how a glob finds: the options of @actions/glob that the originals set.
type globbing struct {
	descend    bool // what a pattern names stands for all that is below it
	skipHidden bool // names that begin with a dot are not seen, nor anything below them
	keepLinks  bool // directories behind links are not looked into
}

// glob finds what the patterns name, in the order of a walk. searched are the literal paths that were searched,
// those below another left out.
func (s *Step) glob(ctx context.Context, patterns []string, how globbing) (found []entry, searched []string, err error) {
	var set patternSet
	for _, p := range patterns {
		if p = strings.TrimSpace(p); p == "" || strings.HasPrefix(p, "#") {
			continue
		}
		parsed, err := parsePattern(p, s.workspace(), s.home())
		if err != nil {
			return nil, nil, err
		}
		set = append(set, parsed)
	}
	searched = set.searchPaths()
	if how.descend {
		set = set.withDescendants()
	}
	all, err := s.listLinks(ctx, searched, set.depth(searched), !how.keepLinks)
	if err != nil {
		return nil, nil, err
	}
	hidden := ""
	for _, e := range all {
		if hidden != "" && strings.HasPrefix(e.path, hidden) {
			continue
		}
		if how.skipHidden && strings.HasPrefix(path.Base(e.path), ".") {
			hidden = e.path + "/"
			continue
		}
		if set.match(e.path, e.dir) {
			found = append(found, e)
		}
	}
	return found, searched, nil
}
