package native

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// plainBox is a machine of plain processes in a directory. As provider "none" its files are read directly, under any
// other name by commands inside.
type plainBox struct {
	dir, provider string
}

func (b plainBox) Exec(ctx context.Context, c sandbox.Command) error {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	for _, kv := range c.Env {
		if p, ok := strings.CutPrefix(kv, "PATH="); ok {
			for dir := range strings.SplitSeq(p, ":") {
				if f, err := exec.LookPath(filepath.Join(dir, c.Args[0])); err == nil && !strings.Contains(c.Args[0], "/") {
					cmd.Path, cmd.Err = f, nil
					break
				}
			}
		}
	}
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Env, c.Dir, c.Stdin, c.Stdout, c.Stderr
	if c.Dir == "" {
		cmd.Dir = b.Info().Workspace
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &sandbox.ExitError{Code: exit.ExitCode()}
	}
	return err
}

func (b plainBox) Put(ctx context.Context, dir string, r io.Reader) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "tar", "-x", "-C", dir)
	cmd.Stdin = r
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.New(string(out))
	}
	return nil
}

func (b plainBox) Get(ctx context.Context, p string) (io.ReadCloser, error) {
	cmd := exec.CommandContext(ctx, "tar", "-c", "-C", filepath.Dir(p), filepath.Base(p))
	out, err := cmd.Output()
	return io.NopCloser(bytes.NewReader(out)), err
}

func (b plainBox) Info() sandbox.Info {
	arch := map[string]string{"amd64": "X64", "arm64": "ARM64"}[runtime.GOARCH]
	return sandbox.Info{Provider: b.provider, OS: "Linux", Arch: arch, Workspace: b.dir + "/work/repo/repo", Temp: b.dir + "/temp",
		ToolCache: b.dir + "/tools", Home: b.dir + "/home", Path: os.Getenv("PATH")}
}

func (b plainBox) Close(context.Context) error { return nil }

// job is a job in a test: steps on one machine with one host.
type job struct {
	t      *testing.T
	box    sandbox.Sandbox
	host   *Host
	github map[string]any
	env    map[string]string
}

// each runs a test on every kind of machine there is.
func each(t *testing.T, test func(t *testing.T, j *job)) {
	for _, provider := range []string{"none", "inside"} {
		t.Run(provider, func(t *testing.T) { test(t, newJob(t, provider)) })
	}
}

func newJob(t *testing.T, provider string) *job {
	dir := t.TempDir()
	box := plainBox{dir, provider}
	info := box.Info()
	for _, d := range []string{info.Workspace, info.Temp, info.ToolCache, info.Home} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	cache, err := OpenCache(filepath.Join(dir, "cache"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &job{t: t, box: box, host: &Host{Cache: cache, Artifacts: OpenArtifacts(blobs)},
		github: map[string]any{
			"repository": "octo/repo", "repository_owner": "octo", "ref": "refs/heads/main", "ref_name": "main", "sha": strings.Repeat("a", 40),
			"run_id": "7", "run_attempt": "1", "event_name": "push", "server_url": "https://github.com", "retention_days": "90",
			"event": map[string]any{"repository": map[string]any{"default_branch": "main", "id": 1}},
		},
		env: map[string]string{"LANG": "C.UTF-8"},
	}
}

// step is a step that is about to run an action with inputs over its defaults.
func (j *job) step(uses string, with map[string]string) (*Step, *bytes.Buffer) {
	j.t.Helper()
	name, ref, _ := strings.Cut(uses, "@")
	parts := strings.SplitN(name, "/", 3)
	path := ""
	if len(parts) == 3 {
		path = parts[2]
	}
	github, err := expr.FromGo(j.github)
	if err != nil {
		j.t.Fatal(err)
	}
	inputs := defaults(j.t, parts[0]+"/"+parts[1], path, ref)
	for k, v := range with {
		inputs[strings.ToLower(k)] = v
	}
	log := &bytes.Buffer{}
	return &Step{Inputs: inputs, Env: j.env, GitHub: github, Sandbox: j.box, Log: log, Host: j.host}, log
}

// run runs an action's main step and gives the step, its log and its error.
func (j *job) run(uses string, with map[string]string) (*Step, string, error) {
	j.t.Helper()
	s, log := j.step(uses, with)
	err := action(j.t, uses).Main(j.t.Context(), s)
	for k, v := range s.NewEnv {
		j.env[k] = v
	}
	for _, p := range s.NewPath {
		before := j.env["PATH"]
		if before == "" {
			before = j.box.Info().Path
		}
		j.env["PATH"] = p + ":" + before
	}
	return s, log.String(), err
}

// must is run for a step that is to pass.
func (j *job) must(uses string, with map[string]string) (*Step, string) {
	j.t.Helper()
	s, log, err := j.run(uses, with)
	if err != nil {
		j.t.Fatalf("%s: %v\n%s", uses, err, log)
	}
	return s, log
}

// post runs the post step of a step that has run.
func (j *job) post(uses string, main *Step) string {
	j.t.Helper()
	s, log := j.step(uses, nil)
	s.Inputs, s.State = main.Inputs, main.State
	if err := action(j.t, uses).(Poster).Post(j.t.Context(), s); err != nil {
		j.t.Fatalf("post of %s: %v\n%s", uses, err, log)
	}
	return log.String()
}

func action(t *testing.T, uses string) Action {
	t.Helper()
	name, ref, _ := strings.Cut(uses, "@")
	parts := append(strings.SplitN(name, "/", 3), "")
	a := Find(parts[0]+"/"+parts[1], parts[2], ref)
	if a == nil {
		t.Fatalf("no native %s", uses)
	}
	return a
}

// sh runs a script in the machine and gives its output.
func (j *job) sh(script string) string {
	j.t.Helper()
	s, _ := j.step("actions/checkout@v4", nil)
	out, err := s.answer(j.t.Context(), s.workspace(), "sh", "-e", "-c", script)
	if err != nil {
		j.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// files writes files into the workspace, or wherever an absolute name says; a text of "-> x" is a link to x.
func (j *job) files(files map[string]string) {
	j.t.Helper()
	s, _ := j.step("actions/checkout@v4", nil)
	for name, text := range files {
		f := file{name: strings.TrimPrefix(s.abs(name), "/"), data: text}
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			f.data, f.link = "", target
		}
		if err := s.put(j.t.Context(), "/", f); err != nil {
			j.t.Fatal(err)
		}
	}
}

// tree lists the files below a directory of the machine with their texts: "name=text", sorted.
func (j *job) tree(dir string) []string {
	j.t.Helper()
	s, _ := j.step("actions/checkout@v4", nil)
	found, err := s.list(j.t.Context(), []string{s.abs(dir)}, maxDepth)
	if err != nil {
		j.t.Fatal(err)
	}
	var out []string
	for _, e := range found {
		if e.dir {
			continue
		}
		text, err := s.read(j.t.Context(), e.path)
		if err != nil {
			j.t.Fatal(err)
		}
		out = append(out, strings.TrimPrefix(e.path, s.abs(dir)+"/")+"="+text)
	}
	return out
}

func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

// defaults gives the literal defaults of a native's manifest, which are all that tests need of it.
func defaults(t *testing.T, repository, path, ref string) map[string]string {
	t.Helper()
	inputs := map[string]string{}
	for _, in := range manifest(t, repository, path, ref).Inputs {
		if in.Default.IsLiteral() {
			inputs[strings.ToLower(in.Name)] = in.Default.Literal().Text()
		}
	}
	return inputs
}

func manifest(t *testing.T, repository, path, ref string) *workflow.Action {
	t.Helper()
	a, err := workflow.ParseAction("action.yml", Manifest(repository, path, ref))
	if err != nil {
		t.Fatalf("%s/%s: %v", repository, path, err)
	}
	return a
}
