package ci

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// decision is one Decide: a fork of the run that is ahead of it by the events so far, and what is still to be looked at.
type decision struct {
	run    *Run
	now    time.Time
	events []Event
	ended  []JobID // completed, what follows is not yet decided
	check  []JobID // may have what they need
}

func (d *decision) emit(e Event) {
	e.At = d.now
	d.run.Apply(e)
	d.events = append(d.events, e)
}

// settle decides what follows from what happened, until nothing does.
func (d *decision) settle() {
	for {
		switch {
		case len(d.ended) > 0:
			id := d.ended[0]
			d.ended = d.ended[1:]
			d.follow(d.run.Job(id))
		case len(d.check) > 0:
			id := d.check[0]
			d.check = d.check[1:]
			d.consider(d.run.Job(id))
		default:
			d.status()
			return
		}
	}
}

// create begins the run.
func (d *decision) create(id RunID) {
	r := d.run
	e := Event{Type: EventRunCreated, Run: id, Attempt: 1}
	r.Attempt = 1 // contexts tell it before the event does
	if mistakes := r.Plan.Mistakes; len(mistakes) > 0 {
		e.Name, e.Annotations = r.Plan.Workflow, mistakes
		d.emit(e)
		d.emit(Event{Type: EventRunCompleted, Conclusion: Failure, Reason: faultyTitle + ": " + mistakes[0].Message})
		return
	}
	name, bad := r.title()
	e.Name = name
	if bad != nil {
		e.Annotations = []Annotation{bad.note}
	}
	claim, faulty := d.runClaim()
	e.Claim = claim
	if faulty != nil {
		e.Annotations = append(e.Annotations, faulty.note)
	}
	d.emit(e)
	added := Event{Type: EventJobsAdded}
	for _, n := range r.Plan.selected() {
		added.Jobs = append(added.Jobs, d.fresh("", "", n))
	}
	d.emit(added)
	if faulty != nil {
		d.refuseRun(faulty.message)
	}
	d.open()
	d.settle()
}

// refuseRun fails all jobs of a run that can not begin.
func (d *decision) refuseRun(reason string) {
	for _, j := range d.run.roots() {
		d.drop(j, Failure, reason)
	}
}

// drop ends a job that does not run, or of a matrix or call that waits to run again those parts that would; it ends with
// them.
func (d *decision) drop(j *Job, c Conclusion, reason string) {
	parts := d.run.within(j)
	if len(parts) == 0 && j.Status != Completed {
		d.complete(j, Event{Conclusion: c, Reason: reason})
	}
	for _, k := range parts {
		if k.Status != Completed && len(d.run.within(k)) == 0 {
			d.complete(k, Event{Conclusion: c, Reason: reason})
		}
	}
}

// runClaim is the run's wish for the concurrency group of its workflow, nil if it has none.
func (d *decision) runClaim() (*Claim, *fault) {
	root := d.run.Plan.parsed.root
	if root.workflow.Concurrency == nil {
		return nil, nil
	}
	claim, err := evalClaim(root.workflow.Concurrency, expr.Env{Contexts: d.run.scope("")})
	if err != nil {
		return nil, newFault(root, nil, "concurrency", root.workflow.Concurrency.Pos, err)
	}
	if claim != nil {
		claim.Since = d.now
	}
	return claim, nil
}

// granted reports whether the run may begin: it has no concurrency group, or holds it.
func (r *Run) granted() bool { return r.Claim == nil || r.Claim.Held }

// open looks at all jobs that may begin now that the run may.
func (d *decision) open() {
	if d.run.granted() {
		d.enter(d.run.roots())
	}
}

// enter looks at jobs of one file, now that what they are part of has begun.
func (d *decision) enter(jobs []*Job) {
	for _, j := range jobs {
		switch {
		case j.Waits == WaitNeeds:
			d.check = append(d.check, j.ID)
		case j.Expanded && j.Status == InProgress:
			d.fill(j)
		case j.Waits == WaitSlot:
			d.move(j.ID, true)
		}
	}
}

// roots are the jobs of the root file, matrices and calls as one each.
func (r *Run) roots() []*Job {
	var out []*Job
	for _, j := range r.Jobs {
		if _, cell := j.ID.matrix(); j.Parent == "" && !cell {
			out = append(out, j)
		}
	}
	return out
}

// fresh is a job that waits for its needs.
func (d *decision) fresh(call JobID, file string, n *node) *Job {
	j := &Job{
		ID: inside(call) + JobID(n.def.ID), Def: n.def.ID, File: file, Parent: call, Call: n.def.Uses != "", Cells: 1,
		Status: Pending, Waits: WaitNeeds, Since: d.now, Attempt: d.run.Attempt,
	}
	for _, m := range n.needs {
		j.Needs = append(j.Needs, inside(call)+JobID(m.def.ID))
	}
	j.Name = d.run.prefixed(call, plainName(n))
	j.Reason = waitsForNeeds(n)
	return j
}

func waitsForNeeds(n *node) string {
	if len(n.needs) == 0 {
		return ""
	}
	var names []string
	for _, m := range n.needs {
		names = append(names, m.def.ID)
	}
	return "Waits for " + enumerate(names, "and") + "."
}

// plainName is a job's name before its expressions can be evaluated.
func plainName(n *node) string {
	if s := n.def.Name.Source(); s != "" {
		return s
	}
	return n.def.ID
}

// prefixed is a name behind that of the call it belongs to.
func (r *Run) prefixed(call JobID, name string) string {
	if j := r.Job(call); j != nil {
		return j.Name + " / " + name
	}
	return name
}

// follow decides what comes after a job that has completed.
func (d *decision) follow(j *Job) {
	if j == nil || j.Status != Completed {
		return
	}
	if id, ok := j.ID.matrix(); ok {
		d.followCell(d.run.Job(id), j)
		return
	}
	for _, n := range d.run.node(j).dependents {
		if k := d.run.sibling(j, n); k != nil {
			d.check = append(d.check, k.ID)
		}
	}
	if call := d.run.Job(j.Parent); call != nil {
		if parts := d.run.parts(call); call.Status != Completed && allCompleted(parts) {
			d.endCall(call, parts)
		}
	}
}

// followCell decides what the end of a cell means for its matrix.
func (d *decision) followCell(matrix, cell *Job) {
	if matrix == nil || matrix.Status == Completed {
		return
	}
	if outputs := mergeOutputs(matrix.Outputs, cell.Outputs); !maps.Equal(outputs, matrix.Outputs) {
		d.emit(Event{Type: EventJobOutputs, Job: matrix.ID, Outputs: outputs})
	}
	parts := d.run.parts(matrix)
	if cell.result() == Failure && !matrix.KeepGoing {
		for _, k := range parts {
			d.stop(k, SignalCancel, fmt.Sprintf("The strategy configuration was canceled because \"%s\" failed", cell.Name), false)
		}
		parts = d.run.parts(matrix)
	}
	if allCompleted(parts) {
		d.complete(matrix, Event{Conclusion: d.jointly(matrix, parts)})
		return
	}
	if d.run.granted() {
		d.fill(matrix)
	}
}

// jointly is the conclusion of the parts of a matrix or call. What a cancel has cut short is not a success.
func (d *decision) jointly(whole *Job, parts []*Job) Conclusion {
	c := joint(parts)
	if c != Failure && (whole.Stop != "" || d.run.cancelled(whole)) {
		for _, k := range parts {
			if k.Conclusion == Skipped {
				return Cancelled
			}
		}
	}
	return c
}

func allCompleted(jobs []*Job) bool {
	for _, j := range jobs {
		if j.Status != Completed {
			return false
		}
	}
	return true
}

// endCall completes a call with the outputs that its workflow declares.
func (d *decision) endCall(call *Job, parts []*Job) {
	e := Event{Conclusion: d.jointly(call, parts)}
	outputs, bad := d.run.callOutputs(call, parts)
	if bad != nil {
		e.Conclusion, e.Reason, e.RunAnnotations = Failure, bad.message, []Annotation{bad.note}
	}
	e.Outputs = outputs
	d.complete(call, e)
}

func (r *Run) callOutputs(call *Job, parts []*Job) (map[string]string, *fault) {
	f := r.Plan.parsed.called(call.File, r.node(call).def)
	trigger := f.workflow.On.Find(eventCall)
	if len(trigger.Outputs) == 0 {
		return nil, nil
	}
	env := expr.Env{Contexts: r.scope(call.ID)}
	var jobs []expr.Pair
	for _, k := range parts {
		jobs = append(jobs, expr.Pair{Key: k.Def, Value: summary(k)})
	}
	env.Contexts["jobs"] = expr.Object(jobs...)
	out := make(map[string]string, len(trigger.Outputs))
	for _, o := range trigger.Outputs {
		v, err := o.Value.Eval(env)
		if err != nil {
			return nil, newFault(f, nil, "outputs", pos(o.Value), err)
		}
		out[o.Name] = v.Text()
	}
	return out, nil
}

// complete ends a job. The event brings how; continue-on-error is looked at here.
func (d *decision) complete(j *Job, e Event) {
	e.Type, e.Job = EventJobCompleted, j.ID
	e.Tolerated = e.Conclusion == Failure && j.ContinueOnError
	d.emit(e)
	d.ended = append(d.ended, j.ID)
}

// fail ends a job whose file asks for what can not be.
func (d *decision) fail(j *Job, f *fault) {
	d.complete(j, Event{Conclusion: Failure, Reason: f.message, RunAnnotations: []Annotation{f.note}})
}

// refuse ends a job that never ran, with an annotation at its place in the file.
func (d *decision) refuse(j *Job, c Conclusion, reason string) {
	n := d.run.node(j)
	note := Annotation{Level: "error", Message: reason, Title: j.Name, Line: n.def.Line, Column: n.def.Column}
	note.File = d.run.Plan.parsed.byUses[j.File].workflow.Path
	d.complete(j, Event{Conclusion: c, Reason: reason, RunAnnotations: []Annotation{note}})
}

// status brings the state of the run in line with that of its jobs.
func (d *decision) status() {
	r := d.run
	if r.Status == Completed {
		return
	}
	completed, running, queued := 0, 0, 0
	var waiting *Job
	for _, j := range r.Jobs {
		switch j.Status {
		case Completed:
			completed++
		case InProgress:
			if !j.Expanded && !j.Call {
				running++
			}
		case Queued:
			queued++
		case Waiting:
			if waiting == nil {
				waiting = j
			}
		}
	}
	if completed == len(r.Jobs) {
		d.end()
		return
	}
	status, reason := Pending, ""
	switch {
	case !r.granted():
		reason = waitsForGroup(r.Claim.Key)
	case running > 0, queued > 0 && !r.Started.IsZero():
		status = InProgress
	case queued > 0:
		status = Queued
	case waiting != nil:
		status, reason = Waiting, waiting.Reason
	}
	if r.Stop != "" {
		reason = r.Reason
	}
	if status != r.Status || reason != r.Reason {
		d.emit(Event{Type: EventRunStatus, Status: status, Reason: reason})
	}
}

func waitsForGroup(key string) string { return "Waits for the concurrency group '" + key + "'." }

// end completes the run.
func (d *decision) end() {
	r := d.run
	e := Event{Type: EventRunCompleted, Conclusion: joint(r.roots())}
	switch {
	case r.Stop != "":
		e.Conclusion, e.Reason = Cancelled, r.Reason
	case e.Conclusion == Failure:
		e.Reason = "Failed: " + r.those(Failure) + "."
	case e.Conclusion == Cancelled:
		e.Reason = "Cancelled: " + r.those(Cancelled) + "."
	}
	d.emit(e)
}

// those names the jobs that ended in a way, a few of them; matrices and calls stand for their parts only if no part did.
func (r *Run) those(c Conclusion) string {
	const few = 3
	var names []string
	for i, j := range r.Jobs {
		if j.result() != c || r.anyPart(i, c) {
			continue
		}
		names = append(names, j.Name)
	}
	if more := len(names) - few; more > 0 {
		names = append(names[:few:few], plural(more, "other"))
	}
	return enumerate(names, "and")
}

// anyPart reports whether a part of the matrix or call at a place ended in a way.
func (r *Run) anyPart(place int, c Conclusion) bool {
	for _, k := range r.Jobs[place+1:] {
		if !r.Jobs[place].ID.contains(k.ID) {
			return false
		}
		if k.result() == c {
			return true
		}
	}
	return false
}

// title is the run's name: run-name, else what GitHub shows for the event.
func (r *Run) title() (string, *fault) {
	root := r.Plan.parsed.root
	v, err := root.workflow.RunName.Eval(expr.Env{Contexts: r.scope("")})
	var bad *fault
	if err != nil {
		bad = newFault(root, nil, "run-name", pos(root.workflow.RunName), err)
	}
	if name := strings.TrimSpace(v.Text()); name != "" {
		return name, bad
	}
	event := r.Plan.GitHub.Property("event")
	for _, path := range [][2]string{{"head_commit", "message"}, {"pull_request", "title"}, {"issue", "title"}, {"release", "name"}} {
		line, _, _ := strings.Cut(event.Property(path[0]).Property(path[1]).Text(), "\n")
		if line = strings.TrimSpace(line); line != "" {
			return line, bad
		}
	}
	return workflowName(root.workflow), bad
}

func workflowName(w *workflow.Workflow) string {
	if w.Name != "" {
		return w.Name
	}
	return w.Path
}
