package native

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// codecov is codecov/codecov-action. Reports are kept on this machine and shown in the job's summary; nothing is sent.
type codecov struct{}

// kept is what is remembered of the last report of a flag on a branch: lines that were run and all, by file.
type kept map[string][2]int

func (codecov) Main(ctx context.Context, s *Step) error {
	err := s.cover(ctx)
	if err != nil && !s.loose("fail_ci_if_error") {
		s.warning("Codecov: %v", err)
		return nil
	}
	return err
}

// cover reads the reports, shows them and keeps them.
func (s *Step) cover(ctx context.Context) error {
	files, err := s.coverageFiles(ctx)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("no coverage report was found: name it with `files:`")
	}
	all := coverage{}
	for _, name := range files {
		text, err := sandbox.ReadFile(ctx, s.Sandbox, name, maxReport)
		if err != nil {
			return err
		}
		one, err := parseCoverage(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		run, lines := one.count("")
		s.info("%s: %d files, %d of %d lines", name, len(one), run, lines)
		for file, lines := range one {
			for n, hit := range lines {
				if err := all.add(file, n, hit); err != nil {
					return err
				}
			}
		}
	}
	now := kept{}
	for file := range all {
		run, lines := all.count(file)
		now[file] = [2]int{run, lines}
	}
	flags := or(s.input("flags"), "all")
	base := or(s.github("base_ref"), s.github("ref_name"))
	before := s.keptCoverage(flags, base)
	s.Summary = coverageSummary(flags, now, before)
	run, lines := now.total()
	s.info("Coverage of %s: %s (%d of %d lines). Reports stay on this machine: nothing was sent to Codecov", flags, percent(run, lines), run, lines)
	return s.keepCoverage(flags, s.github("ref_name"), now)
}

// reportNames are what reports are commonly called, as the uploader looks for them.
var reportNames = []string{"coverage.xml", "cobertura.xml", "cobertura-coverage.xml", "lcov.info", "coverage.lcov", "coverage.out", "cover.out", "coverage.txt", "jacoco.xml", "clover.xml"}

// skipped are directories that no report of one's own is in.
var skipped = []string{"node_modules", ".git", "vendor", ".venv", "venv", "__pycache__"}

// coverageFiles are the reports: those that are named, else what is found.
func (s *Step) coverageFiles(ctx context.Context) ([]string, error) {
	var named []string
	for _, in := range []string{"file", "files"} {
		for f := range strings.SplitSeq(s.input(in), ",") {
			if f = strings.TrimSpace(f); f != "" {
				named = append(named, path.Join(s.coverageDir(), f))
			}
		}
	}
	if len(named) > 0 {
		return named, nil
	}
	readable, ok := s.Sandbox.(sandbox.Readable)
	if !ok {
		return nil, errors.New("name the report with `files:`: this machine can not be searched")
	}
	root, err := readable.Open(s.coverageDir())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var found []string
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // what can not be read is not ours
		case e.IsDir() && slices.Contains(skipped, e.Name()):
			return fs.SkipDir
		case e.Type().IsRegular() && slices.Contains(reportNames, e.Name()):
			found = append(found, path.Join(s.coverageDir(), name))
		}
		return context.Cause(ctx)
	})
	return found, err
}

func (s *Step) coverageDir() string {
	return s.abs(or(s.input("directory"), s.input("working-directory")))
}

func (k kept) total() (run, lines int) {
	for _, c := range k {
		run += c[0]
		lines += c[1]
	}
	return run, lines
}

func percent(run, lines int) string {
	if lines == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f %%", 100*float64(run)/float64(lines))
}

// change is the difference of two shares in points.
func change(now, before [2]int) string {
	if now[1] == 0 || before[1] == 0 {
		return ""
	}
	d := 100 * (float64(now[0])/float64(now[1]) - float64(before[0])/float64(before[1]))
	if d > -0.005 && d < 0.005 {
		return "±0"
	}
	return fmt.Sprintf("%+.2f", d)
}

// maxRows is how many files a summary shows: those that changed most.
const maxRows = 50

// coverageSummary is the Markdown of a job's summary.
func coverageSummary(flags string, now, before kept) string {
	var b strings.Builder
	run, lines := now.total()
	baseRun, baseLines := before.total()
	fmt.Fprintf(&b, "### Coverage: %s\n\n%s of %d lines", flags, percent(run, lines), lines)
	if d := change([2]int{run, lines}, [2]int{baseRun, baseLines}); d != "" {
		fmt.Fprintf(&b, " (%s points)", d)
	}
	b.WriteString("\n\n| file | lines | covered | change |\n| --- | ---: | ---: | ---: |\n")
	files := slices.Sorted(maps.Keys(now))
	slices.SortStableFunc(files, func(x, y string) int {
		return cmp.Compare(-abs(moved(now[x], before[x])), -abs(moved(now[y], before[y])))
	})
	for i, f := range files {
		if i == maxRows {
			fmt.Fprintf(&b, "| and %d more | | | |\n", len(files)-maxRows)
			break
		}
		c := now[f]
		old, known := before[f]
		what := change(c, old)
		if !known && len(before) > 0 {
			what = "new"
		}
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s |\n", strings.NewReplacer("|", `\|`, "`", "'").Replace(f), c[1], percent(c[0], c[1]), what)
	}
	b.WriteString("\n")
	return b.String()
}

// moved is by how much a file's share changed; new files count whole.
func moved(now, before [2]int) float64 {
	share := func(c [2]int) float64 {
		if c[1] == 0 {
			return 0
		}
		return float64(c[0]) / float64(c[1])
	}
	return share(now) - share(before)
}

func abs(f float64) float64 { return max(f, -f) }

// coverageFile is where the last report of a flag on a branch is kept.
func (s *Step) coverageFile(flags, branch string) string {
	return filepath.Join(s.Host.Coverage, url.PathEscape(s.github("repository")), url.PathEscape(branch)+" "+url.PathEscape(flags)+".json")
}

func (s *Step) keptCoverage(flags, branch string) kept {
	if s.Host.Coverage == "" {
		return nil
	}
	var k kept
	text, err := os.ReadFile(s.coverageFile(flags, branch))
	if err != nil || json.Unmarshal(text, &k) != nil {
		return nil // the first one
	}
	return k
}

func (s *Step) keepCoverage(flags, branch string, k kept) error {
	if s.Host.Coverage == "" {
		return nil
	}
	name := s.coverageFile(flags, branch)
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		os.Remove(temp.Name())
	}
	return err
}
