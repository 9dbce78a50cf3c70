package ci

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/workflow"
)

// gate takes a job to the gate of its environment, or through it. denied says why it can never pass.
func (d *decision) gate(j *Job) (passed bool, denied string) {
	env, ok := d.run.Plan.Environments[strings.ToLower(j.Environment)]
	if j.Environment == "" || !ok {
		return true, ""
	}
	if kind, name := d.run.ref(); !env.Admits(name, d.run.Plan.GitHub.Property("ref").Text()) {
		return false, fmt.Sprintf("%s \"%s\" is not allowed to deploy to %s due to environment protection rules.", kind, name, j.Environment)
	}
	reviewed := len(env.Reviewers) == 0
	if j.Gate == nil {
		if reviewed && env.Wait <= 0 {
			return true, ""
		}
		j.Gate = &Gate{Opened: d.now}
		if env.Wait > 0 {
			j.Gate.Until = d.now.Add(env.Wait)
		}
		if !reviewed {
			j.Gate.Expires = d.now.Add(maxReviewWait)
		}
	}
	reviewed = reviewed || j.Gate.Approved != ""
	if reviewed && !d.now.Before(j.Gate.Until) {
		return true, ""
	}
	j.Status, j.Reason, j.Deadline = Waiting, d.waitsForGate(j, env, reviewed), j.Gate.Until
	if !reviewed {
		j.Deadline = j.Gate.Expires
	}
	return false, ""
}

// waitsForGate says for people what a job waits for, who can move it on and until when.
func (d *decision) waitsForGate(j *Job, env Environment, reviewed bool) string {
	if reviewed {
		return fmt.Sprintf("Waits for the wait timer of %s until %s.", j.Environment, at(j.Gate.Until))
	}
	who := slices.Clone(env.Reviewers)
	if env.PreventSelfReview {
		who = slices.DeleteFunc(who, d.run.isOwn)
	}
	if len(who) == 0 {
		return fmt.Sprintf("Waits for a review of %s that nobody may give: its only reviewer began the run. It fails at %s.", j.Environment, at(j.Gate.Expires))
	}
	timer := ""
	if j.Gate.Until.After(d.now) {
		timer = ", and for its wait timer until " + at(j.Gate.Until)
	}
	return fmt.Sprintf("Waits for %s to review %s%s. It fails at %s without an answer.", enumerate(who, "or"), j.Environment, timer, at(j.Gate.Expires))
}

// isOwn reports whether a user began the run, or this attempt of it.
func (r *Run) isOwn(user string) bool {
	return strings.EqualFold(user, r.Plan.GitHub.Property("actor").Text()) ||
		strings.EqualFold(user, r.Plan.GitHub.Property("triggering_actor").Text()) ||
		r.RerunBy != "" && strings.EqualFold(user, r.RerunBy)
}

// ref is the run's branch or tag as environments see it.
func (r *Run) ref() (kind, name string) {
	ref := r.Plan.GitHub.Property("ref").Text()
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		return "Tag", tag
	}
	return "Branch", strings.TrimPrefix(ref, "refs/heads/")
}

// Admits reports whether a branch, tag or whole ref may deploy. A pattern that is none admits nothing.
func (e Environment) Admits(refs ...string) bool {
	if len(e.Branches) == 0 {
		return true
	}
	for _, pattern := range e.Branches {
		for _, ref := range refs {
			if ok, err := workflow.MatchPattern(pattern, ref); ok && err == nil {
				return true
			}
		}
	}
	return false
}

// MayReview says whether a user may answer for an environment of the run. The error wraps ErrRefused and says why not.
func (r *Run) MayReview(environment, user string) error {
	env := r.Plan.Environments[strings.ToLower(environment)]
	if !slices.ContainsFunc(env.Reviewers, func(r string) bool { return r != "" && strings.EqualFold(r, user) }) {
		return fmt.Errorf("%w: %s is no reviewer of %s", ErrRefused, user, env.Name)
	}
	if env.PreventSelfReview && r.isOwn(user) {
		return fmt.Errorf("%w: %s began the run, somebody else must review %s", ErrRefused, user, env.Name)
	}
	return nil
}

func (in Reviewed) decide(d *decision) error {
	env, ok := d.run.Plan.Environments[strings.ToLower(in.Environment)]
	if !ok {
		return ErrStale
	}
	var waiting []*Job
	for _, j := range d.run.Jobs {
		if j.Status == Waiting && strings.EqualFold(j.Environment, in.Environment) && j.Gate.Approved == "" && len(env.Reviewers) > 0 {
			waiting = append(waiting, j)
		}
	}
	if len(waiting) == 0 {
		return ErrStale
	}
	if err := d.run.MayReview(in.Environment, in.User); err != nil {
		return err
	}
	for _, j := range waiting {
		if in.Approve {
			d.emit(Event{Type: EventJobReviewed, Job: j.ID, By: in.User, Comment: in.Comment})
			d.move(j.ID, true)
			continue
		}
		reason := fmt.Sprintf("%s rejected the deployment to %s", in.User, j.Environment)
		if in.Comment != "" {
			reason += ": " + in.Comment
		}
		d.refuse(j, Failure, reason)
	}
	return nil
}

func (in Tick) decide(d *decision) error {
	if d.now.Before(in.At) {
		d.now = in.At
	}
	for _, j := range slices.Clone(d.run.Jobs) {
		if !j.timed() || !j.Deadline.Equal(in.At) {
			continue
		}
		switch {
		case j.Status == InProgress:
			d.abandon(j)
		case j.Gate.Approved == "" && !j.Gate.Expires.IsZero():
			d.refuse(j, Failure, fmt.Sprintf("Nobody reviewed the deployment to %s within 30 days", j.Environment))
		default:
			d.move(j.ID, true)
		}
	}
	return nil
}

// abandon ends a job whose runner is silent beyond all limits.
func (d *decision) abandon(j *Job) {
	reason := fmt.Sprintf("The job has exceeded the maximum execution time of %s, and its runner did not end it.", limit(j))
	if j.Stop != "" {
		reason = "The runner did not end the cancelled job in time."
	}
	d.complete(j, Event{Conclusion: Cancelled, Reason: reason, Steps: cutShort(j.Steps, d.now, Cancelled)})
}
