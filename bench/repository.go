package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// repository is a git repository made for a case.
type repository struct{ dir string }

// newRepository makes a repository of files (path to content) and commits them.
func (b *bench) newRepository(ctx context.Context, name string, files map[string]string) (repository, error) {
	r := repository{filepath.Join(b.dir, name)}
	for path, content := range files {
		path = filepath.Join(r.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return r, err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return r, err
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch", "main"},
		{"config", "gc.auto", "0"}, // nothing in the background of a measurement
		{"config", "maintenance.auto", "false"},
		{"add", "."},
		{"-c", "user.name=Bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "--message", "Begin"},
	} {
		if _, err := output(ctx, "git", append([]string{"-C", r.dir}, args...)...); err != nil {
			return r, err
		}
	}
	return r, nil
}

// onPush is a workflow of one job: its name, what stands before the steps (indented by four), and the steps, each
// the lines of a mapping.
func onPush(job, head string, steps ...string) string {
	var w strings.Builder
	fmt.Fprintf(&w, "on: push\njobs:\n  %s:\n    runs-on: ubuntu-latest\n%s    steps:\n", job, head)
	for _, s := range steps {
		w.WriteString("      - " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n        ") + "\n")
	}
	return w.String()
}

// workflow is a repository that holds just this workflow.
func (b *bench) workflow(ctx context.Context, name, source string) (repository, error) {
	return b.newRepository(ctx, name, map[string]string{".github/workflows/" + name + ".yml": source})
}

// tree makes count files of size bytes below dir/PATH, at most 1,000 a directory, for content that says where it is.
func tree(path string, count, size int) map[string]string {
	files := make(map[string]string, count)
	for i := range count {
		name := fmt.Sprintf("%s/%02d/%03d.txt", path, i/1000, i%1000)
		line := name + "\n"
		files[name] = strings.Repeat(line, size/len(line)+1)[:size]
	}
	return files
}
