package ci

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/workflow"
)

var update = flag.Bool("update", false, "write what the scripts in testdata print into them")

// TestScripts runs testdata/*.txt. A script is lines of commands above the workflow files (txtar); the first file is the
// root, the others are called by their names: ./.github/workflows/x.yml or owner/repo/path@ref. What a command prints
// stands below it behind "> ". Commands:
//
//	event NAME, github KEY=VALUE, payload JSON, input KEY=JSON, var KEY=VALUE, only JOB..., cells KEY=VALUE...
//	env NAME [reviewers=A,B] [wait=10m] [branches=X,Y] [self=no]
//	new                        begin the run; prints the errors of the plan
//	lease JOB..., start JOB..., lost JOB..., finish JOB CONCLUSION [KEY=VALUE...] (leases and starts if need be)
//	step JOB NUMBER NAME STATUS [CONCLUSION]
//	all [CONCLUSION]           finish all that is ready, again and again
//	tick DURATION, cancel [force], review ENV USER approve|reject [COMMENT]
//	grant KEY [JOB], supersede KEY [JOB] [RUN], rerun all|failed|JOB... [JOB@STEP...]
//	jobs, run, why [JOB], ready, claims, deadline, notes, stops, outputs JOB, name JOB, steps JOB
//	task JOB FIELD..., secrets JOB NAME=VALUE...
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) { runScript(t, path) })
	}
}

type script struct {
	t     *testing.T
	files []txtar.File
	rest  Plan
	m     *machine
	out   strings.Builder // what the command prints
}

func runScript(t *testing.T, path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	archive := txtar.Parse(data)
	s := &script{t: t, files: archive.Files, rest: Plan{
		Event: "push", Repository: "acme/shop",
		GitHub: expr.FromStrings(map[string]string{"ref": "refs/heads/main", "actor": "alice", "run_id": "7", "run_attempt": "1"}),
	}}
	var got strings.Builder
	for line := range strings.Lines(string(archive.Comment)) {
		if strings.HasPrefix(line, ">") {
			continue
		}
		got.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		s.out.Reset()
		s.command(words[0], words[1:])
		for printed := range strings.Lines(s.out.String()) {
			got.WriteString("> " + printed)
		}
	}
	if got.String() == string(archive.Comment) {
		return
	}
	if !*update {
		t.Fatalf("%s prints\n%s\nnot\n%s", path, got.String(), archive.Comment)
	}
	archive.Comment = []byte(got.String())
	if err := os.WriteFile(path, txtar.Format(archive), 0o666); err != nil {
		t.Fatal(err)
	}
}

func (s *script) print(format string, args ...any) {
	fmt.Fprintf(&s.out, format+"\n", args...)
}

func (s *script) told(err error) {
	if err != nil {
		s.print("! %v", err)
	}
}

// pairs splits words KEY=VALUE.
func (s *script) pairs(words []string) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			s.t.Fatalf("%q is not KEY=VALUE", w)
		}
		out[k] = v
	}
	return out
}

func (s *script) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *script) command(name string, args []string) {
	if s.m == nil {
		s.setUp(name, args)
		return
	}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	m := s.m
	switch name {
	case "lease":
		for _, id := range args {
			s.told(m.lease(JobID(id)))
		}
	case "start":
		for _, id := range args {
			s.told(m.tell(Started{JobID(id), m.leaseOf(JobID(id))}))
		}
	case "lost":
		for _, id := range args {
			s.told(m.tell(Lost{JobID(id), m.leaseOf(JobID(id)), "The runner was not heard of."}))
		}
	case "step":
		number, err := strconv.Atoi(arg(1))
		if err != nil {
			s.t.Fatal(err)
		}
		step := Step{Number: number, Name: arg(2), Status: Status(arg(3)), Outcome: Conclusion(arg(4)), Conclusion: Conclusion(arg(4))}
		s.told(m.tell(Reported{JobID(arg(0)), m.leaseOf(JobID(arg(0))), Report{Steps: []Step{step}}}))
	case "finish":
		s.finish(JobID(arg(0)), Conclusion(arg(1)), s.pairs(args[2:]))
	case "all":
		for ready := m.run.Ready(); len(ready) > 0; ready = m.run.Ready() {
			for _, id := range ready {
				if m.run.Job(id).Status == Queued {
					s.finish(id, Conclusion(cmpString(arg(0), "success")), nil)
				}
			}
		}
	case "tick":
		m.now = m.now.Add(s.duration(arg(0)))
		for _, at := range m.due() {
			s.told(m.tell(Tick{at}))
		}
	case "cancel":
		s.told(m.tell(Cancel{By: "alice", Force: arg(0) == "force"}))
	case "review":
		s.told(m.tell(Reviewed{Environment: arg(0), User: arg(1), Approve: arg(2) == "approve", Comment: strings.Join(args[3:], " ")}))
	case "grant":
		s.told(m.tell(Granted{Key: arg(0), Owner: JobID(arg(1))}))
	case "supersede":
		by, _ := strconv.Atoi(cmpString(arg(2), "8"))
		s.told(m.tell(Superseded{Key: arg(0), Owner: JobID(strings.TrimPrefix(arg(1), "-")), By: RunID(by)}))
	case "rerun":
		s.rerun(args)
	default:
		s.show(name, args)
	}
}

func cmpString(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (s *script) setUp(name string, args []string) {
	switch name {
	case "event":
		s.rest.Event = args[0]
	case "github":
		for k, v := range s.pairs(args) {
			s.rest.GitHub = s.rest.GitHub.With(k, expr.String(v))
		}
	case "payload":
		v, err := expr.FromJSON([]byte(strings.Join(args, " ")))
		if err != nil {
			s.t.Fatal(err)
		}
		s.rest.GitHub = s.rest.GitHub.With("event", v)
	case "input":
		for k, v := range s.pairs(args) {
			value, err := expr.FromJSON([]byte(v))
			if err != nil {
				s.t.Fatal(err)
			}
			s.rest.Inputs = s.rest.Inputs.With(k, value)
		}
	case "var":
		for k, v := range s.pairs(args) {
			s.rest.Vars = s.rest.Vars.With(k, expr.String(v))
		}
	case "only":
		s.rest.Only = args
	case "cells":
		s.rest.Cells = map[string][]string{}
		for k, v := range s.pairs(args) {
			s.rest.Cells[k] = strings.Split(v, ",")
		}
	case "env":
		s.environment(args)
	case "new":
		s.begin()
	default:
		s.t.Fatalf("unknown command %s before new", name)
	}
}

func (s *script) environment(args []string) {
	e := Environment{Name: args[0]}
	for k, v := range s.pairs(args[1:]) {
		switch k {
		case "reviewers":
			e.Reviewers = strings.Split(v, ",")
		case "wait":
			e.Wait = s.duration(v)
		case "branches":
			e.Branches = strings.Split(v, ",")
		case "self":
			e.PreventSelfReview = v == "no"
		}
	}
	if s.rest.Environments == nil {
		s.rest.Environments = map[string]Environment{}
	}
	s.rest.Environments[strings.ToLower(e.Name)] = e
}

func (s *script) begin() {
	root := File{Path: s.files[0].Name, Text: string(s.files[0].Data)}
	var calls []File
	for _, f := range s.files[1:] {
		path := strings.TrimPrefix(f.Name, "./")
		if before, _, ok := strings.Cut(f.Name, "@"); ok {
			path = before
		}
		calls = append(calls, File{Uses: f.Name, Path: path, Text: string(f.Data)})
	}
	plan, err := NewPlan(root, calls, s.rest)
	if faults, ok := err.(workflow.Errors); ok {
		for _, f := range faults {
			s.print("! %s", f)
		}
		return
	}
	if err != nil {
		s.print("! %v", err)
		return
	}
	loaded := &Plan{}
	unmarshal(s.t, mustJSON(s.t, plan), loaded)
	s.m = newMachine(s.t, loaded)
}

func (s *script) finish(id JobID, c Conclusion, outputs map[string]string) {
	m := s.m
	if j := m.run.Job(id); j != nil && j.Status == Queued {
		s.told(m.lease(id))
	}
	if j := m.run.Job(id); j != nil && j.Started.IsZero() && j.Status == InProgress {
		s.told(m.tell(Started{id, m.leaseOf(id)}))
	}
	s.told(m.tell(Finished{id, m.leaseOf(id), Result{Conclusion: c, Outputs: outputs}}))
}

func (s *script) rerun(args []string) {
	in := Rerun{By: "bob"}
	for _, a := range args {
		id, step, resume := strings.Cut(a, "@")
		switch {
		case a == "all":
		case a == "failed":
			in.Failed = true
		case resume:
			if in.Resume == nil {
				in.Resume = map[JobID]Resume{}
			}
			number, _ := strconv.Atoi(step)
			in.Resume[JobID(id)] = Resume{Step: number, Snapshot: "snapshot", State: "{}"}
		default:
			in.Jobs = append(in.Jobs, JobID(a))
		}
	}
	s.told(s.m.tell(in))
}

func (s *script) show(name string, args []string) {
	r := s.m.run
	switch name {
	case "jobs":
		for _, j := range r.Jobs {
			text := string(j.ID) + " " + string(j.Status)
			if j.Conclusion != "" {
				text = string(j.ID) + " " + string(j.Conclusion)
			}
			if j.Tolerated {
				text += " (tolerated)"
			}
			if j.Attempt < r.Attempt {
				text += fmt.Sprintf(" (attempt %d)", j.Attempt)
			}
			s.print("%s", text)
		}
	case "why":
		for _, j := range r.Jobs {
			if j.Reason != "" && (len(args) == 0 || slices.Contains(args, string(j.ID))) {
				s.print("%s: %s", j.ID, j.Reason)
			}
		}
	case "run":
		text := fmt.Sprintf("%q attempt %d %s", r.Name, r.Attempt, cmpString(string(r.Conclusion), string(r.Status)))
		if r.Reason != "" {
			text += ": " + r.Reason
		}
		s.print("%s", text)
	case "ready":
		for _, id := range r.Ready() {
			s.print("%s", id)
		}
	case "claims":
		for _, c := range r.Claims() {
			text := fmt.Sprintf("%s %s", cmpString(string(c.Owner), "run"), c.Key)
			if c.Held {
				text += " held"
			}
			if c.CancelInProgress {
				text += " cancel-in-progress"
			}
			if c.Queue != "" {
				text += " queue=" + c.Queue
			}
			s.print("%s", text)
		}
	case "deadline":
		if all := r.Deadlines(); len(all) > 0 {
			s.print("%s", all[0].Sub(s.m.now))
		}
	case "notes":
		for _, a := range r.Annotations {
			s.print("%s %s:%d:%d %s", a.Level, a.File, a.Line, a.Column, a.Message)
		}
	case "stops":
		for _, j := range r.Jobs {
			if j.Stop != "" && j.Status != Completed {
				s.print("%s %s", j.ID, j.Stop)
			}
		}
	default:
		s.showJob(name, args)
	}
}

func (s *script) showJob(name string, args []string) {
	j := s.m.run.Job(JobID(args[0]))
	if j == nil {
		s.t.Fatalf("%s: no job %s", name, args[0])
	}
	switch name {
	case "outputs":
		s.print("%s", mustJSON(s.t, j.Outputs))
	case "name":
		s.print("%s", j.Name)
	case "steps":
		for _, step := range j.Steps {
			s.print("%d %s %s %s", step.Number, step.Name, step.Status, step.Conclusion)
		}
	case "task":
		s.showTask(j.ID, args[1:])
	case "secrets":
		task := s.task(j.ID)
		passed, err := task.Pass(s.pairs(args[1:]), "ghs_token")
		s.told(err)
		s.print("%s", mustJSON(s.t, passed))
	default:
		s.t.Fatalf("unknown command %s", name)
	}
}

func (s *script) task(id JobID) *Task {
	if s.m.run.Job(id).Status == Queued {
		s.told(s.m.lease(id))
	}
	task, err := s.m.run.Task(id)
	if err != nil {
		s.t.Fatal(err)
	}
	return task
}

// showTask prints fields of a job's task, by their names in JSON; github.x prints one property.
func (s *script) showTask(id JobID, fields []string) {
	task := s.task(id)
	v, err := expr.FromJSON([]byte(mustJSON(s.t, task)))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range fields {
		got := v
		for _, part := range strings.Split(f, ".") {
			got = got.Property(part)
		}
		s.print("%s %s", f, mustJSON(s.t, got))
	}
	if _, job, err := task.Workflow(); err != nil || !strings.EqualFold(job.ID, task.Def) {
		s.t.Fatalf("task of %s: %v", id, err)
	}
}
