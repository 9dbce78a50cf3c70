package native

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// plainBox is a machine whose files are not this host's as far as anyone knows: everything goes through commands
// inside, Put and Get, as with a machine of another provider that has no layers.
type plainBox struct {
	sandbox.Sandbox
}

func (b plainBox) Info() sandbox.Info {
	info := b.Sandbox.Info()
	info.Provider = "inside"
	return info
}

// job is a job in a test: steps on one machine with one host.
type job struct {
	t      *testing.T
	box    sandbox.Sandbox
	host   *Host
	github map[string]any
	env    map[string]string
}

// each runs a test on every kind of machine there is.
func each(t *testing.T, test func(t *testing.T, j *job)) { on(t, test, "none", "inside", "host") }

// eachNear is each for machines that share this host's network: tests with a server of their own need it.
func eachNear(t *testing.T, test func(t *testing.T, j *job)) { on(t, test, "none", "inside") }

func on(t *testing.T, test func(t *testing.T, j *job), providers ...string) {
	for _, provider := range providers {
		t.Run(provider, func(t *testing.T) { test(t, newJob(t, provider)) })
	}
}

// machines are what the tests' machines are made of, shared since a host takes its time to get ready.
var machines struct {
	layers *layer.Store
	host   *sandbox.Host
}

func TestMain(m *testing.M) { os.Exit(prepared(m)) }

func prepared(m *testing.M) int {
	dir, err := os.MkdirTemp("", "native-")
	if err != nil {
		panic(err)
	}
	defer layer.RemoveAll(dir)
	if machines.layers, err = layer.Open(dir); err != nil {
		panic(err)
	}
	defer machines.layers.Close()
	if machines.host, err = sandbox.NewHost(machines.layers, nil); err != nil {
		panic(err)
	}
	defer machines.host.Close()
	return m.Run()
}

func open(t testing.TB, provider string) sandbox.Sandbox {
	t.Helper()
	var from sandbox.Provider = machines.host
	if provider != "host" {
		from = sandbox.NewNone(t.TempDir())
	}
	box, err := from.Open(t.Context(), sandbox.Spec{Name: "job", Repo: "repo"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := box.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if provider == "inside" {
		return plainBox{box}
	}
	return box
}

func newJob(t *testing.T, provider string) *job {
	dir := t.TempDir()
	box := open(t, provider)
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	cache, err := OpenCache(filepath.Join(dir, "cache"), machines.layers, 0)
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
