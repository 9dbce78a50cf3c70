package ci

import (
	"fmt"
	"slices"
	"time"
)

// again is what a re-run does with the jobs: those that run again, those that are made anew by their matrix or call,
// and the matrices and calls that are open again since a part of them runs again.
type again struct {
	run      *Run
	reset    map[JobID]bool
	reopened map[JobID]bool
}

func (in Rerun) decide(d *decision) error {
	r := d.run
	if r.Status != Completed {
		return ErrStale
	}
	if r.Attempt >= maxAttempts {
		return fmt.Errorf("%w: the run has been run %d times, that is the limit", ErrRefused, r.Attempt)
	}
	if d.now.Sub(r.Created) > maxRerunAge {
		return fmt.Errorf("%w: the run began more than 30 days ago", ErrRefused)
	}
	if len(r.Plan.Mistakes) > 0 {
		return fmt.Errorf("%w: the workflow file has mistakes; a corrected one runs when it is pushed", ErrRefused)
	}
	targets, err := in.targets(r)
	if err != nil {
		return err
	}
	a := again{run: r, reset: map[JobID]bool{}, reopened: map[JobID]bool{}}
	for _, id := range targets {
		a.add(r.Job(id))
	}
	e := Event{Type: EventRunRerun, Attempt: r.Attempt + 1, By: in.By}
	for _, j := range r.Jobs {
		switch {
		case a.covered(j.ID):
			e.Dropped = append(e.Dropped, j.ID)
		case a.reset[j.ID]:
			e.Reset = append(e.Reset, j.ID)
		case a.reopened[j.ID]:
			e.Reopened = append(e.Reopened, j.ID)
		}
	}
	for id, resume := range in.Resume {
		if slices.Contains(e.Reset, id) && !slices.ContainsFunc(r.needed(r.Job(id)), a.touched) {
			if e.Resume == nil {
				e.Resume = map[JobID]Resume{}
			}
			e.Resume[id] = resume
		}
	}
	r.Attempt++ // contexts tell it before the event does
	claim, bad := d.runClaim()
	r.Attempt--
	e.Claim = claim
	if bad != nil {
		e.Annotations = []Annotation{bad.note}
	}
	d.emit(e)
	if bad != nil {
		d.refuseRun(bad.message)
	}
	d.open()
	return nil
}

// targets are the jobs that the input names.
func (in Rerun) targets(r *Run) ([]JobID, error) {
	var out []JobID
	for _, id := range in.Jobs {
		if r.Job(id) == nil {
			return nil, fmt.Errorf("%w: %s", ErrUnknownJob, id)
		}
		out = append(out, id)
	}
	for id := range in.Resume {
		if j := r.Job(id); j == nil || j.Expanded || j.Call {
			return nil, fmt.Errorf("%w with steps: %s", ErrUnknownJob, id)
		}
		out = append(out, id)
	}
	for _, j := range r.Jobs {
		all := len(in.Jobs) == 0 && !in.Failed && len(in.Resume) == 0
		if all || in.Failed && r.unfinished(j) {
			out = append(out, j.ID)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no job of the run has failed", ErrRefused)
	}
	return out, nil
}

// unfinished reports whether a job failed or was cancelled, or was skipped since what it is part of was cancelled. A
// matrix or call is unfinished only if none of its parts is.
func (r *Run) unfinished(j *Job) bool {
	if !j.bad() {
		return j.Conclusion == Skipped && r.cancelled(j)
	}
	return !slices.ContainsFunc(r.within(j), r.unfinished)
}

func (j *Job) bad() bool { return j.Conclusion == Failure || j.Conclusion == Cancelled }

// add lets a job run again, with all that depends on it, and opens what it is part of.
func (a *again) add(j *Job) {
	if a.reset[j.ID] {
		return
	}
	a.reset[j.ID] = true
	a.opened(j)
}

// opened does what follows from a job that will end anew: its matrix and call do, too, and what needs it runs again.
func (a *again) opened(j *Job) {
	if id, ok := j.ID.matrix(); ok {
		a.open(a.run.Job(id))
		return
	}
	for _, n := range a.run.node(j).dependents {
		if k := a.run.sibling(j, n); k != nil {
			a.add(k)
		}
	}
	if call := a.run.Job(j.Parent); call != nil {
		a.open(call)
	}
}

func (a *again) open(whole *Job) {
	if a.reopened[whole.ID] {
		return
	}
	a.reopened[whole.ID] = true
	a.opened(whole)
}

// covered reports whether a job is part of one that runs again as a whole.
func (a *again) covered(id JobID) bool {
	for i := len(id) - 1; i > 0; i-- {
		if (id[i] == '/' || id[i] == ':') && a.reset[id[:i]] {
			return true
		}
	}
	return false
}

// touched reports whether a job ends anew.
func (a *again) touched(j *Job) bool { return a.reset[j.ID] || a.reopened[j.ID] || a.covered(j.ID) }

// needed are the jobs that a job needs, here and in the calls that it is part of.
func (r *Run) needed(j *Job) []*Job {
	var out []*Job
	for ; j != nil; j = r.Job(j.Parent) {
		for _, m := range r.node(j).needs {
			if k := r.sibling(j, m); k != nil {
				out = append(out, k)
			}
		}
	}
	return out
}

// applyRerun is the run at the start of its next attempt.
func (r *Run) applyRerun(e Event) {
	r.Attempt, r.RerunBy, r.Claim = e.Attempt, e.By, e.Claim
	r.Status, r.Conclusion, r.Reason, r.Stop, r.CancelledBy = Queued, "", "", "", ""
	r.Started, r.Completed, r.Annotations = time.Time{}, time.Time{}, e.Annotations
	dropped := make(map[JobID]bool, len(e.Dropped))
	for _, id := range e.Dropped {
		dropped[id] = true
	}
	r.Jobs = slices.DeleteFunc(slices.Clone(r.Jobs), func(j *Job) bool { return dropped[j.ID] })
	r.index.build(r.Jobs)
	for _, id := range e.Reset {
		at := r.place(id)
		j := *r.Jobs[at]
		r.reset(&j, e)
		r.Jobs[at] = &j
	}
	for _, id := range slices.Backward(e.Reopened) {
		at := r.place(id)
		j := *r.Jobs[at]
		r.reopen(&j, e)
		r.Jobs[at] = &j
	}
	r.OutputBytes = 0
	for _, j := range r.Jobs {
		if !j.Expanded {
			r.OutputBytes += outputSize(j.Outputs)
		}
	}
}

// reset makes a job wait again: a cell for its slot, since its matrix stays as it is, any other for its needs.
func (r *Run) reset(old *Job, e Event) {
	j := &Job{
		ID: old.ID, Def: old.Def, File: old.File, Parent: old.Parent, Call: old.Call, Cells: 1, Needs: old.Needs,
		Status: Pending, Waits: WaitNeeds, Since: e.At, Attempt: e.Attempt,
	}
	if resume, ok := e.Resume[old.ID]; ok {
		j.Resume = &resume
	}
	if _, ok := old.ID.matrix(); ok {
		j.Waits, j.Cell, j.Cells, j.Matrix, j.Name = WaitSlot, old.Cell, old.Cells, old.Matrix, old.Name
		j.Labels, j.Group, j.Environment, j.Inputs = old.Labels, old.Group, old.Environment, old.Inputs
		j.ContinueOnError, j.Timeout, j.CancelTimeout = old.ContinueOnError, old.Timeout, old.CancelTimeout
		j.Reason, j.Claims = waitsAgain, unclaimed(old.Claims)
	} else {
		n := r.node(old)
		j.Name, j.Reason = r.prefixed(old.Parent, plainName(n)), waitsForNeeds(n)
	}
	*old = *j
}

const waitsAgain = "Waits to run again."

// unclaimed are claims that are not made yet.
func unclaimed(claims []Claim) []Claim {
	claims = slices.Clone(claims)
	for i := range claims {
		claims[i].Since, claims[i].Held = time.Time{}, false
	}
	return claims
}

// reopen makes a matrix or call run again for a part of it. A call goes through its limits again; of a matrix, the cells
// that stay have given their outputs already.
func (r *Run) reopen(j *Job, e Event) {
	j.Status, j.Conclusion, j.Tolerated, j.Reason, j.Stop = InProgress, "", false, "", ""
	j.Since, j.Completed, j.Outputs, j.Attempt = e.At, time.Time{}, nil, e.Attempt
	if !j.Expanded {
		j.Status, j.Waits, j.Reason, j.Claims = Pending, WaitSlot, waitsAgain, unclaimed(j.Claims)
		return
	}
	parts := slices.DeleteFunc(r.parts(j), func(k *Job) bool { return k.Status != Completed })
	slices.SortStableFunc(parts, func(a, b *Job) int { return a.Completed.Compare(b.Completed) })
	for _, k := range parts {
		if len(k.Outputs) > 0 {
			j.Outputs = mergeOutputs(j.Outputs, k.Outputs)
		}
	}
}
