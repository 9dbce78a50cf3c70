package ci

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/expr"
)

// FuzzMachine gives inputs in any order to runs of generated plans: nothing panics, replay and JSON give the same run,
// limits hold, nothing runs twice, and when all jobs finish and all gates are answered the run completes.
func FuzzMachine(f *testing.F) {
	for seed := range uint64(40) {
		data := make([]byte, 200)
		r := rand.New(rand.NewPCG(seed, 1))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { playRandom(t, data) })
}

// TestMachineRandom is the fuzz test on a fixed number of inputs that no corpus knows.
func TestMachineRandom(t *testing.T) {
	n := 400
	if testing.Short() {
		n = 50
	}
	for seed := range n {
		r := rand.New(rand.NewPCG(uint64(seed), uint64(time.Now().UnixNano())))
		data := make([]byte, 80+r.IntN(400))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("input: %q", data)
				}
			}()
			playRandom(t, data)
		})
	}
}

func playRandom(t *testing.T, data []byte) {
	if len(data) > 2000 {
		data = data[:2000]
	}
	p := &player{source: source{data: data}}
	plan := p.plan(t)
	if plan == nil {
		return
	}
	p.m = newMachine(t, plan)
	for !p.empty() {
		p.act()
	}
	p.drain()
}

// source gives choices out of fuzz data; when it is empty, always the first.
type source struct {
	data []byte
}

func (s *source) empty() bool { return len(s.data) == 0 }

func (s *source) pick(n int) int {
	if len(s.data) == 0 || n <= 1 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % n
}

func (s *source) one(in ...string) string { return in[s.pick(len(in))] }

func (s *source) chance(n int) bool { return s.pick(n) == 1 }

// player generates a plan and plays it.
type player struct {
	source
	m      *machine
	leases []Input // everything that was once said with a lease, to be said again too late
}

// plan makes a plan of a root and two files that it may call, of which the first may call the second.
func (p *player) plan(t *testing.T) *Plan {
	rest := Plan{
		Event: "push", Repository: "acme/shop",
		GitHub: expr.FromStrings(map[string]string{"ref": p.one("refs/heads/main", "refs/tags/v1"), "actor": p.one("alice", "bob"), "run_attempt": "1"}),
		Vars:   expr.FromStrings(map[string]string{"LIST": p.one(`["a","b"]`, `[1,2,3]`, `[]`, `bad`), "NAME": p.one("e1", "", "E2")}),
		Environments: map[string]Environment{
			"e1": {Name: "e1", Reviewers: []string{"alice", "bob"}, PreventSelfReview: p.chance(2)},
			"e2": {Name: "E2", Wait: 10 * time.Minute, Reviewers: []string{"carol"}},
			"e3": {Name: "e3", Branches: []string{"main"}, Wait: time.Hour},
		},
	}
	root := p.workflow(0, "on: push\n")
	calls := []File{
		{Uses: "./.github/workflows/one.yml", Path: ".github/workflows/one.yml", Text: p.workflow(1, "on: { workflow_call: { inputs: { i: { type: string, default: d } }, outputs: { o: { value: \"${{ jobs.j0.outputs.o }}\" } } } }\n")},
		{Uses: "./.github/workflows/two.yml", Path: ".github/workflows/two.yml", Text: p.workflow(2, "on: { workflow_call: { outputs: { o: { value: \"${{ fromJSON(jobs.j0.outputs.o || '1') }}\" } } } }\n")},
	}
	if p.chance(4) {
		rest.Only = []string{"j1"}
	}
	plan, err := NewPlan(File{Path: "ci.yml", Text: root}, calls, rest)
	if err != nil {
		if len(rest.Only) == 0 {
			t.Fatalf("the generated plan is bad: %v\n%s\n%s\n%s", err, root, calls[0].Text, calls[1].Text)
		}
		return nil
	}
	return plan
}

func (p *player) workflow(level int, head string) string {
	var b strings.Builder
	b.WriteString(head)
	if p.chance(3) {
		fmt.Fprintf(&b, "concurrency: { group: \"f%d\", cancel-in-progress: %s }\n", level, p.one("true", "false"))
	}
	b.WriteString("jobs:\n")
	n := 1 + p.pick(5)
	for i := range n {
		fmt.Fprintf(&b, "  j%d:\n", i)
		p.job(&b, level, i)
	}
	return b.String()
}

func (p *player) job(b *strings.Builder, level, i int) {
	var needs []string
	for k := range i {
		if p.chance(3) {
			needs = append(needs, fmt.Sprintf("j%d", k))
		}
	}
	if len(needs) > 0 {
		fmt.Fprintf(b, "    needs: [%s]\n", strings.Join(needs, ", "))
	}
	if cond := p.one("", "", "", "", "always()", "failure()", "cancelled()", "!cancelled()", "success() || failure()", "false", "fromJSON(vars.LIST)[0] == 'a'"); cond != "" {
		fmt.Fprintf(b, "    if: ${{ %s }}\n", cond)
	}
	call := level < 2 && p.chance(4)
	if p.chance(3) {
		p.strategy(b, needs)
	}
	if p.chance(4) {
		name := "g" + p.one("1", "2")
		if call {
			name = fmt.Sprintf("c%d%s", level, p.one("a", "b")) // calls take groups of their level only: no two can wait for each other
		}
		fmt.Fprintf(b, "    concurrency: { group: \"%s\", cancel-in-progress: %s }\n", name, p.one("true", "false"))
	}
	if call {
		fmt.Fprintf(b, "    uses: ./.github/workflows/%s.yml\n", []string{"one", "two"}[max(level, p.pick(2))])
		return
	}
	fmt.Fprintf(b, "    runs-on: %s\n", p.one("x", "x", "x", "${{ vars.NAME }}"))
	if p.chance(4) {
		fmt.Fprintf(b, "    environment: %s\n", p.one("e1", "E2", "e3", "${{ vars.NAME }}"))
	}
	if p.chance(4) {
		fmt.Fprintf(b, "    continue-on-error: %s\n", p.one("true", "${{ strategy.job-index == 1 }}"))
	}
	if p.chance(4) {
		fmt.Fprintf(b, "    timeout-minutes: %s\n", p.one("0.5", "3"))
	}
	b.WriteString("    outputs: { o: x }\n    steps: [{ run: x }]\n")
}

func (p *player) strategy(b *strings.Builder, needs []string) {
	b.WriteString("    strategy:\n")
	if p.chance(2) {
		fmt.Fprintf(b, "      fail-fast: %s\n", p.one("false", "true"))
	}
	if p.chance(2) {
		fmt.Fprintf(b, "      max-parallel: %s\n", p.one("1", "2"))
	}
	matrix := p.one("{ v: [1, 2, 3] }", "{ v: [1, 2], w: [a, b], exclude: [{ v: 1, w: a }] }", "{ v: \"${{ fromJSON(vars.LIST) }}\" }", "late")
	if matrix == "late" {
		matrix = "{ v: [1] }"
		if len(needs) > 0 {
			matrix = fmt.Sprintf("{ v: \"${{ fromJSON(needs.%s.outputs.o || '[1,2]') }}\" }", needs[0])
		}
	}
	fmt.Fprintf(b, "      matrix: %s\n", matrix)
}

// act gives one input.
func (p *player) act() {
	m := p.m
	m.now = m.now.Add([]time.Duration{0, 0, time.Second, time.Minute, -time.Minute, time.Hour}[p.pick(6)])
	switch p.pick(17) {
	case 0, 1, 2:
		p.leaseOne()
	case 3:
		if j := p.some(InProgress); j != nil {
			p.say(Started{j.ID, j.Lease})
		}
	case 4:
		if j := p.some(InProgress); j != nil {
			step := Step{Number: p.pick(4), Name: "s", Status: Status(p.one("in_progress", "completed", "queued"))}
			p.say(Reported{j.ID, j.Lease, Report{Steps: []Step{step}, Annotations: []Annotation{{Level: "warning", Message: "w"}}}})
		}
	case 5, 6, 7:
		if j := p.some(InProgress); j != nil && !j.Call && !j.Expanded {
			p.say(Finished{j.ID, j.Lease, p.result()})
		}
	case 8:
		if j := p.some(InProgress); j != nil {
			p.say(Lost{j.ID, j.Lease, p.one("", "gone")})
		}
	case 9:
		p.say(Reviewed{Environment: p.one("e1", "E2", "e3", "none"), User: p.one("alice", "bob", "carol", "mallory"), Approve: p.pick(3) > 0})
	case 10:
		m.now = m.now.Add(time.Duration(p.pick(40)) * time.Hour * 24)
		for _, at := range m.due() {
			p.say(Tick{at})
		}
	case 11:
		if p.chance(3) {
			p.say(Cancel{By: p.one("", "alice"), Force: p.chance(3)})
		}
	case 12:
		p.arbitrate()
	case 13:
		if claims := m.run.Claims(); len(claims) > 0 {
			c := claims[p.pick(len(claims))]
			p.say(Superseded{c.Key, c.Owner, RunID(p.pick(3))})
		}
	case 14:
		p.rerun()
	case 15:
		p.old()
	case 16:
		p.leaseAny()
	}
}

// leaseAny leases a job that may not be ready.
func (p *player) leaseAny() {
	j := p.m.run.Jobs[p.pick(len(p.m.run.Jobs))]
	if err := p.m.lease(j.ID); (err == nil) != (j.Status == Queued) {
		p.m.t.Fatalf("lease of %s, which is %s: %v", j.ID, j.Status, err)
	}
}

// say tells the run something and remembers it.
func (p *player) say(in Input) {
	_ = p.m.tell(in) // refusing is right: the machine checks that nothing changed
	p.leases = append(p.leases, in)
}

// old repeats what was said before, with leases that may have ended.
func (p *player) old() {
	if len(p.leases) > 0 {
		in := p.leases[p.pick(len(p.leases))]
		if _, granted := in.(Granted); !granted { // who grants knows what is held
			_ = p.m.tell(in)
		}
	}
}

func (p *player) some(s Status) *Job {
	var jobs []*Job
	for _, j := range p.m.run.Jobs {
		if j.Status == s {
			jobs = append(jobs, j)
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	return jobs[p.pick(len(jobs))]
}

func (p *player) leaseOne() {
	ready := p.m.run.Ready()
	if len(ready) == 0 {
		return
	}
	id := ready[p.pick(len(ready))]
	if err := p.m.lease(id); err != nil {
		p.m.t.Fatalf("lease of %s, which is ready: %v", id, err)
	}
	task, err := p.m.run.Task(id)
	if err != nil {
		p.m.t.Fatal(err)
	}
	if _, _, err := task.Workflow(); err != nil {
		p.m.t.Fatal(err)
	}
	if _, err := task.Pass(map[string]string{"A": "b"}, "t"); err != nil {
		p.m.t.Fatal(err)
	}
}

func (p *player) result() Result {
	return Result{
		Conclusion: Conclusion(p.one("success", "success", "success", "failure", "cancelled", "skipped", "odd")),
		Outputs:    map[string]string{"o": p.one("", `[1,2]`, `["x"]`, "bad", "{}")},
	}
}

// arbitrate gives each free group to a claim that wants it.
func (p *player) arbitrate() bool {
	held := map[string]bool{}
	for _, c := range p.m.run.Claims() {
		if c.Held && held[c.Key] {
			p.m.t.Fatalf("two hold %s", c.Key)
		}
		held[c.Key] = held[c.Key] || c.Held
	}
	granted := false
	for _, c := range p.m.run.Claims() {
		if !c.Held && !held[c.Key] {
			held[c.Key] = true
			granted = true
			if err := p.m.tell(Granted{c.Key, c.Owner}); err != nil {
				p.m.t.Fatalf("grant %s to %s: %v", c.Key, c.Owner, err)
			}
			return granted
		}
	}
	return granted
}

func (p *player) rerun() {
	in := Rerun{By: "carol", Failed: p.chance(2)}
	jobs := p.m.run.Jobs
	for range p.pick(3) {
		in.Jobs = append(in.Jobs, jobs[p.pick(len(jobs))].ID)
	}
	if p.chance(3) {
		in.Resume = map[JobID]Resume{jobs[p.pick(len(jobs))].ID: {Step: 2}}
	}
	p.say(in)
}

// drain answers everything until the run is completed.
func (p *player) drain() {
	m := p.m
	for range 10000 {
		r := m.run
		if r.Status == Completed {
			return
		}
		switch {
		case p.arbitrate():
		case len(r.Ready()) > 0:
			p.leaseOne()
		case p.finishOne():
		case p.approve():
		default:
			all := r.Deadlines()
			if len(all) == 0 {
				m.t.Fatalf("stuck: %s", mustJSON(m.t, r))
			}
			if all[0].After(m.now) {
				m.now = all[0]
			}
			before := r.Version
			if _ = m.tell(Tick{all[0]}); m.run.Version == before {
				m.t.Fatalf("a deadline at %s does nothing: %s", all[0], mustJSON(m.t, r))
			}
		}
	}
	m.t.Fatalf("does not end: %s", mustJSON(m.t, m.run))
}

func (p *player) finishOne() bool {
	i := slices.IndexFunc(p.m.run.Jobs, func(j *Job) bool { return j.Lease != "" })
	if i < 0 {
		return false
	}
	j := p.m.run.Jobs[i]
	if err := p.m.tell(Finished{j.ID, j.Lease, p.result()}); err != nil {
		p.m.t.Fatalf("finish %s: %v", j.ID, err)
	}
	return true
}

func (p *player) approve() bool {
	for _, j := range p.m.run.Jobs {
		if j.Status != Waiting || j.Gate.Approved != "" {
			continue
		}
		for _, user := range []string{"alice", "bob", "carol"} {
			if p.m.tell(Reviewed{Environment: j.Environment, User: user, Approve: true}) == nil {
				return true
			}
		}
	}
	return false
}
