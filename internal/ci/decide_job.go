package ci

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// consider looks at a job whose needs may be done: it skips it, or makes it ready to go through its limits.
func (d *decision) consider(j *Job) {
	if j == nil || j.Status != Pending || j.Waits != WaitNeeds || !d.run.granted() {
		return
	}
	if call := d.run.Job(j.Parent); call != nil && call.Status != InProgress {
		return
	}
	n := d.run.node(j)
	for _, m := range n.needs {
		if k := d.run.sibling(j, m); k != nil && k.Status != Completed {
			return
		}
	}
	ok, bad := d.run.holds(j)
	switch {
	case bad != nil:
		d.fail(j, bad)
	case !ok:
		d.complete(j, Event{Conclusion: Skipped, Reason: d.whySkipped(j, n)})
	default:
		d.ready(j, n)
	}
}

// whySkipped says for people why a job does not run.
func (d *decision) whySkipped(j *Job, n *node) string {
	if d.run.cancelled(j) {
		return "Skipped: the run was cancelled."
	}
	for _, m := range n.needs {
		if k := d.run.sibling(j, m); k != nil && k.result() != Success {
			return fmt.Sprintf("Skipped: %s ended with %s.", m.def.ID, k.result())
		}
	}
	if n.def.If.Source != "" {
		return "Skipped: its condition is false: " + strings.TrimSpace(n.def.If.Source)
	}
	return "Skipped: a job before it did not succeed."
}

// ready makes a job whose condition holds go on: as the cells of its matrix, or alone.
func (d *decision) ready(j *Job, n *node) {
	f := d.run.Plan.parsed.byUses[j.File]
	m, bad := d.run.expand(j, f, n)
	if bad != nil {
		d.fail(j, bad)
		return
	}
	p := preparation{run: d.run, file: f, node: n, contexts: d.run.scope(j.Parent)}
	p.contexts["needs"] = d.run.needs(j, n)
	if m.cells == nil {
		one := *j
		one.KeepGoing = m.keepGoing
		if bad := p.prepare(&one, expr.Null(), m.strategy(0)); bad != nil {
			d.fail(j, bad)
			return
		}
		d.admit(&one)
		return
	}
	d.spread(j, m, &p)
}

// spread puts the cells of a matrix in its place.
func (d *decision) spread(j *Job, m *matrix, p *preparation) {
	if len(d.run.Jobs)+len(m.cells) > maxJobs {
		d.refuse(j, Failure, tooManyJobs)
		return
	}
	e := Event{Type: EventJobsAdded, After: j.ID, KeepGoing: m.keepGoing, MaxParallel: m.maxParallel}
	for _, c := range m.cells {
		k := *j
		k.ID = JobID(fmt.Sprintf("%s/%d", j.ID, c.index))
		k.Cell, k.Cells, k.Matrix = c.index, m.total, c.value
		k.Waits, k.Since, k.Reason = WaitSlot, d.now, ""
		if bad := p.prepare(&k, c.value, m.strategy(c.index)); bad != nil {
			d.fail(j, bad)
			return
		}
		e.Jobs = append(e.Jobs, &k)
	}
	if len(e.Jobs) == 0 {
		d.complete(j, Event{Conclusion: Skipped, Reason: "Skipped: no cell of its matrix was asked for."})
		return
	}
	left := m.maxParallel
	var later []verdict
	for i, k := range e.Jobs {
		if m.maxParallel > 0 && left == 0 {
			k.Reason = waitsForSlot(m.maxParallel)
			continue
		}
		v := d.advance(k, true)
		if v.conclusion == "" {
			left--
		}
		if v != (verdict{}) {
			v.id = e.Jobs[i].ID
			later = append(later, v)
		}
	}
	d.emit(e)
	for _, v := range later {
		d.carryOut(v)
	}
}

const tooManyJobs = "Workflows may not contain more than 10000 jobs across all referenced files" // maxJobs

func waitsForSlot(n int) string {
	return fmt.Sprintf("Waits for a place: max-parallel is %d.", n)
}

// admit stores a job that is ready and takes it as far as it goes.
func (d *decision) admit(j *Job) {
	j.Waits, j.Reason = WaitSlot, ""
	v := d.advance(j, true)
	d.emit(Event{Type: EventJobReady, Job: j.ID, Jobs: []*Job{j}})
	v.id = j.ID
	d.carryOut(v)
}

// move takes a job that is ready as far as it goes now. free says that its matrix has a slot for it.
func (d *decision) move(id JobID, free bool) {
	old := d.run.Job(id)
	j := *old
	v := d.advance(&j, free)
	v.id = id
	if j.Status != old.Status || j.Waits != old.Waits || j.Reason != old.Reason || !j.Deadline.Equal(old.Deadline) ||
		j.Gate != old.Gate || !slices.Equal(j.Claims, old.Claims) {
		d.emit(Event{Type: EventJobMoved, Job: id, Status: j.Status, Waits: j.Waits, Reason: j.Reason, Until: j.Deadline, Claims: j.Claims, Gate: j.Gate})
	}
	d.carryOut(v)
}

// fill lets as many cells of a matrix go on as have a place.
func (d *decision) fill(m *Job) {
	parts := d.run.parts(m)
	free := len(parts)
	if m.MaxParallel > 0 {
		free = m.MaxParallel
		for _, k := range parts {
			if k.Status != Completed && k.Waits != WaitSlot {
				free--
			}
		}
	}
	for _, k := range parts {
		if k.Waits != WaitSlot {
			continue
		}
		d.move(k.ID, free > 0)
		if d.run.Job(k.ID).Status != Completed {
			free--
		}
	}
}

// verdict is what becomes of a job that has gone as far as it could: nothing more, an end, or the start of a call.
type verdict struct {
	id         JobID
	conclusion Conclusion
	reason     string
	begin      bool
}

func (d *decision) carryOut(v verdict) {
	switch {
	case v.conclusion != "" && len(d.run.within(d.run.Job(v.id))) > 0:
		d.drop(d.run.Job(v.id), v.conclusion, v.reason)
	case v.conclusion != "":
		d.refuse(d.run.Job(v.id), v.conclusion, v.reason)
	case v.begin:
		d.begin(d.run.Job(v.id))
	}
}

// advance takes a job, which is not that of the run but a copy, through its limits as far as it goes: a slot of its
// matrix, its concurrency groups, the gate of its environment. It changes the copy.
func (d *decision) advance(j *Job, free bool) verdict {
	j.Status, j.Deadline = Pending, time.Time{}
	if j.Waits == WaitSlot {
		if !free {
			if m, ok := j.ID.matrix(); ok && d.run.Job(m) != nil {
				j.Reason = waitsForSlot(d.run.Job(m).MaxParallel)
			}
			return verdict{}
		}
		j.Waits = WaitGroup
	}
	if j.Waits == WaitGroup {
		if v, done := d.claim(j); !done {
			return v
		}
		j.Waits = WaitReview
	}
	if j.Call {
		j.Waits, j.Reason = "", ""
		return verdict{begin: true}
	}
	if passed, denied := d.gate(j); !passed {
		if denied != "" {
			return verdict{conclusion: Failure, reason: denied}
		}
		return verdict{}
	}
	j.Status, j.Waits, j.Reason = Queued, "", waitsForRunner(j)
	return verdict{}
}

func waitsForRunner(j *Job) string {
	if j.Resume != nil && j.Resume.Runner != "" {
		return "Waits for the runner " + j.Resume.Runner + ", which has its disk."
	}
	who := "a runner"
	if j.Group != "" {
		who += " of the group " + j.Group
	}
	switch len(j.Labels) {
	case 0:
	case 1:
		who += " with the label " + j.Labels[0]
	default:
		who += " with the labels " + enumerate(j.Labels, "and")
	}
	return "Waits for " + who + "."
}

// claim asks for the job's concurrency groups, one after the other. It reports whether it has them all.
func (d *decision) claim(j *Job) (verdict, bool) {
	for i := range j.Claims {
		c := j.Claims[i]
		if c.Held {
			continue
		}
		if owner, ok := d.run.above(j, c.Key); ok {
			return verdict{conclusion: Cancelled, reason: fmt.Sprintf(
				"Canceling since a deadlock for concurrency group '%s' was detected between '%s' and '%s'", c.Key, owner, j.Name)}, false
		}
		if c.Since.IsZero() {
			j.Claims = slices.Clone(j.Claims)
			j.Claims[i].Since = d.now
		}
		j.Reason = waitsForGroup(c.Key)
		return verdict{}, false
	}
	return verdict{}, true
}

// above finds who, of the run and the calls that a job belongs to, has a concurrency group already.
func (r *Run) above(j *Job, key string) (owner string, found bool) {
	if r.Claim != nil && r.Claim.Key == key {
		return "top level workflow", true
	}
	for call := r.Job(j.Parent); call != nil; call = r.Job(call.Parent) {
		for _, c := range call.Claims {
			if c.Key == key {
				return call.Name, true
			}
		}
	}
	return "", false
}

// begin adds the jobs of a call, or goes on with them if it runs again.
func (d *decision) begin(call *Job) {
	if parts := d.run.parts(call); len(parts) > 0 {
		d.emit(Event{Type: EventJobsAdded, After: call.ID})
		d.enter(parts)
		return
	}
	f := d.run.Plan.parsed.called(call.File, d.run.node(call).def)
	if len(d.run.Jobs)+len(f.nodes) > maxJobs {
		d.refuse(call, Failure, tooManyJobs)
		return
	}
	e := Event{Type: EventJobsAdded, After: call.ID}
	for _, n := range f.nodes {
		e.Jobs = append(e.Jobs, d.fresh(call.ID, f.source.Uses, n))
	}
	d.emit(e)
	for _, j := range e.Jobs {
		d.check = append(d.check, j.ID)
	}
}

// matrix is a strategy, evaluated.
type matrix struct {
	cells       []cell // nil: the job is alone
	total       int    // of all cells, those that were not asked for included
	keepGoing   bool
	maxParallel int
}

type cell struct {
	index int
	value expr.Value
}

// strategy is the strategy context of a cell.
func (m *matrix) strategy(index int) expr.Value {
	if m.cells == nil {
		return strategy(m.keepGoing, 0, 1, 1)
	}
	return strategy(m.keepGoing, index, m.total, m.maxParallel)
}

// expand evaluates a job's strategy.
func (r *Run) expand(j *Job, f *file, n *node) (*matrix, *fault) {
	m := &matrix{}
	s := n.def.Strategy
	if s == nil {
		return m, nil
	}
	env := expr.Env{Contexts: r.scope(j.Parent)}
	env.Contexts["needs"] = r.needs(j, n)
	bad := func(at *workflow.Node, err error) *fault { return newFault(f, n, "strategy", pos(at), err) }
	failFast, err := s.FailFast.Eval(env)
	if err != nil {
		return nil, bad(s.FailFast, err)
	}
	m.keepGoing = failFast.Kind() == expr.KindBoolean && !failFast.Truthy()
	limit, err := s.MaxParallel.Eval(env)
	if err != nil {
		return nil, bad(s.MaxParallel, err)
	}
	if x := limit.Number(); x > 0 {
		m.maxParallel = int(min(x, maxCells))
	}
	if s.Matrix == nil {
		return m, nil
	}
	value, err := s.Matrix.Eval(env)
	if err != nil {
		return nil, bad(s.Matrix, err)
	}
	values, err := workflow.Cells(value)
	if err != nil {
		return nil, bad(s.Matrix, err)
	}
	if len(values) == 0 {
		return m, nil // everything excluded: GitHub runs the job once, without matrix
	}
	m.total = len(values)
	m.cells = []cell{}
	for i, v := range values {
		if r.Plan.asksFor(v) {
			m.cells = append(m.cells, cell{i, v})
		}
	}
	return m, nil
}

// asksFor reports whether a cell has the values that Cells restricts matrices to. Keys that its matrix does not have are
// no restriction.
func (p *Plan) asksFor(v expr.Value) bool {
	for key, allowed := range p.Cells {
		got, ok := v.Lookup(key)
		if ok && !slices.Contains(allowed, got.Text()) {
			return false
		}
	}
	return true
}

// preparation evaluates what a job's keys say, once for each cell.
type preparation struct {
	run      *Run
	file     *file
	node     *node
	contexts map[string]expr.Value
}

// prepare fills in a job that is ready.
func (p *preparation) prepare(j *Job, matrixValue, strategyValue expr.Value) *fault {
	p.contexts["matrix"], p.contexts["strategy"] = matrixValue, strategyValue
	env := expr.Env{Contexts: p.contexts}
	def := p.node.def
	for _, key := range []struct {
		name string
		node *workflow.Node
		take func(*Job, expr.Env) error
	}{
		{"name", def.Name, p.name},
		{"runs-on", def.RunsOn, p.runsOn},
		{"environment", def.Environment, p.environment},
		{"concurrency", def.Concurrency, p.concurrency},
		{"continue-on-error", def.ContinueOnError, p.continueOnError},
		{"timeout-minutes", def.TimeoutMinutes, p.timeout},
		{"cancel-timeout-minutes", def.CancelTimeout, p.cancelTimeout},
		{"with", def.With, p.call},
	} {
		if err := key.take(j, env); err != nil {
			at := pos(key.node)
			if at.Line == 0 {
				at = def.Pos
			}
			return newFault(p.file, p.node, key.name, at, err)
		}
	}
	return nil
}

func (p *preparation) name(j *Job, env expr.Env) error {
	v, err := p.node.def.Name.Eval(env)
	if err != nil {
		return err
	}
	name := v.Text()
	switch {
	case name == "":
		name = workflow.JobName(p.node.def.ID, env.Contexts["matrix"])
	case p.node.def.Name.IsLiteral():
		name = workflow.JobName(name, env.Contexts["matrix"])
	}
	j.Name = p.run.prefixed(j.Parent, name)
	return nil
}

func (p *preparation) runsOn(j *Job, env expr.Env) error {
	if j.Call {
		return nil
	}
	v, err := p.node.def.RunsOn.Eval(env)
	if err != nil {
		return err
	}
	j.Labels, j.Group = nil, v.Property("group").Text()
	if v.Kind() == expr.KindObject {
		v = v.Property("labels")
	}
	items := []expr.Value{v}
	if v.Kind() == expr.KindArray {
		items = v.Items()
	}
	for _, item := range items {
		if label := item.Text(); label != "" {
			j.Labels = append(j.Labels, label)
		}
	}
	if len(j.Labels) == 0 && j.Group == "" {
		return errors.New("Unexpected value ''")
	}
	return nil
}

func (p *preparation) environment(j *Job, env expr.Env) error {
	n := p.node.def.Environment
	if n.Kind() == "mapping" {
		n = n.Get("name") // the url is the runner's to evaluate
	}
	v, err := n.Eval(env)
	if err != nil {
		return err
	}
	if v.Kind() == expr.KindObject {
		v = v.Property("name")
	}
	j.Environment = v.Text()
	return nil
}

// concurrency gathers the groups that a job takes: its own, and for a call that of the workflow it calls.
func (p *preparation) concurrency(j *Job, env expr.Env) error {
	j.Claims = nil
	claim, err := evalClaim(p.node.def.Concurrency, env)
	if err != nil {
		return err
	}
	if claim != nil {
		j.Claims = append(j.Claims, *claim)
	}
	return nil
}

func (p *preparation) continueOnError(j *Job, env expr.Env) error {
	v, err := p.node.def.ContinueOnError.Eval(env)
	j.ContinueOnError = v.Truthy()
	return err
}

func (p *preparation) timeout(j *Job, env expr.Env) (err error) {
	j.Timeout, err = minutes(p.node.def.TimeoutMinutes, env)
	return err
}

func (p *preparation) cancelTimeout(j *Job, env expr.Env) (err error) {
	j.CancelTimeout, err = minutes(p.node.def.CancelTimeout, env)
	return err
}

// minutes evaluates a limit; zero is the default.
func minutes(n *workflow.Node, env expr.Env) (time.Duration, error) {
	if n == nil {
		return 0, nil
	}
	v, err := n.Eval(env)
	if err != nil {
		return 0, err
	}
	x := v.Number()
	if math.IsNaN(x) || x <= 0 {
		return 0, fmt.Errorf("Unexpected value '%s': a time limit is a number of minutes above 0", v.Text())
	}
	return time.Duration(min(x, maxMinutes) * float64(time.Minute)), nil
}

// maxMinutes bounds time limits: 35 days, the longest that a run on GitHub may take.
const maxMinutes = 35 * 24 * 60

// call evaluates the inputs of a call, and the concurrency of the workflow that it calls, which sees these inputs.
func (p *preparation) call(j *Job, env expr.Env) error {
	if !j.Call {
		return nil
	}
	given, err := p.node.def.With.Eval(env)
	if err != nil {
		return err
	}
	f := p.run.Plan.parsed.called(p.file.source.Uses, p.node.def)
	if j.Inputs, err = workflow.CallInputsIn(f.workflow.On.Find(eventCall), given, env); err != nil {
		return errors.New(err.Error()) // a place in the called file is none in this one
	}
	inner := expr.Env{Contexts: map[string]expr.Value{"github": env.Contexts["github"], "inputs": j.Inputs, "vars": env.Contexts["vars"]}}
	claim, err := evalClaim(f.workflow.Concurrency, inner)
	if err != nil {
		return err
	}
	if claim != nil && !slices.ContainsFunc(j.Claims, func(c Claim) bool { return c.Key == claim.Key }) {
		j.Claims = append(j.Claims, *claim)
	}
	return nil
}

// maxGroupName is how long the name of a concurrency group may be (GitHub's limit).
const maxGroupName = 400

// evalClaim evaluates a concurrency; nil if there is none.
func evalClaim(n *workflow.Node, env expr.Env) (*Claim, error) {
	if n == nil {
		return nil, nil
	}
	v, err := n.Eval(env)
	if err != nil {
		return nil, err
	}
	c := &Claim{Key: strings.ToLower(v.Text())}
	if v.Kind() == expr.KindObject {
		c.Key = strings.ToLower(v.Property("group").Text())
		c.CancelInProgress = v.Property("cancel-in-progress").Truthy()
		c.Queue = v.Property("queue").Text()
	}
	if c.Key == "" {
		return nil, &workflow.EvalError{Pos: n.Pos, Message: "Concurrency group name cannot be empty"}
	}
	if len(c.Key) > maxGroupName {
		return nil, &workflow.EvalError{Pos: n.Pos, Message: "Concurrency group name must be less than 400 characters"}
	}
	return c, nil
}
