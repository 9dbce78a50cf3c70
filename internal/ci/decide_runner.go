package ci

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// leased finds the job of a lease that is good.
func (d *decision) leased(id JobID, lease LeaseID) (*Job, error) {
	j := d.run.Job(id)
	switch {
	case j == nil:
		return nil, ErrUnknownJob
	case j.Status != InProgress || lease == "" || j.Lease != lease:
		return nil, ErrStale
	}
	return j, nil
}

func (in Leased) decide(d *decision) error {
	j := d.run.Job(in.Job)
	switch {
	case j == nil:
		return ErrUnknownJob
	case j.Status != Queued || in.Lease == "":
		return ErrStale
	}
	d.emit(Event{Type: EventJobLeased, Job: j.ID, Lease: in.Lease, Runner: in.Runner, Until: in.Until})
	return nil
}

func (in Renewed) decide(d *decision) error {
	j, err := d.leased(in.Job, in.Lease)
	if err == nil && j.Started.IsZero() && j.Stop == "" {
		d.emit(Event{Type: EventJobRenewed, Job: j.ID, Until: in.Until})
	}
	return err
}

func (in Started) decide(d *decision) error {
	j, err := d.leased(in.Job, in.Lease)
	if err != nil || !j.Started.IsZero() {
		return err
	}
	e := Event{Type: EventJobStarted, Job: j.ID, Until: j.Deadline}
	if j.Stop == "" {
		e.Until = d.now.Add(limit(j) + cmp.Or(j.CancelTimeout, DefaultCancelTimeout) + backstop)
	}
	d.emit(e)
	return nil
}

// limit is how long a job may run.
func limit(j *Job) time.Duration { return cmp.Or(j.Timeout, DefaultTimeout) }

func (in Reported) decide(d *decision) error {
	j, err := d.leased(in.Job, in.Lease)
	if err != nil {
		return err
	}
	if len(in.Report.Steps)+len(in.Report.Annotations) > 0 {
		d.emit(Event{Type: EventJobReported, Job: j.ID, Steps: in.Report.Steps, Annotations: in.Report.Annotations})
	}
	return nil
}

func (in Finished) decide(d *decision) error {
	j, err := d.leased(in.Job, in.Lease)
	if err != nil {
		return err
	}
	res := in.Result
	e := Event{Conclusion: res.Conclusion, Reason: res.Reason, EnvironmentURL: res.EnvironmentURL, Annotations: res.Annotations}
	if e.Reason == "" && j.Stop != "" && e.Conclusion == Cancelled {
		e.Reason = j.Reason
	}
	// Skipped: the runner can not be the machine that the job asks for, and nothing ran.
	if !slices.Contains([]Conclusion{Success, Failure, Cancelled, Skipped}, res.Conclusion) {
		e.Conclusion, e.Reason = Failure, fmt.Sprintf("The runner gave the conclusion '%s', which does not exist.", res.Conclusion)
	}
	if len(res.Steps) > 0 {
		e.Steps = mergeSteps(nil, res.Steps)
	} else {
		e.Steps = cutShort(j.Steps, d.now, Cancelled)
	}
	outputs, note := d.outputs(j, res.Outputs)
	e.Outputs = outputs
	if note != "" {
		e.Annotations = append(slices.Clip(e.Annotations), Annotation{Level: "warning", Message: note})
	}
	d.complete(j, e)
	return nil
}

// outputs are those that are kept of a job's: all or none, by GitHub's limits.
func (d *decision) outputs(j *Job, outputs map[string]string) (map[string]string, string) {
	switch n := outputSize(outputs); {
	case n > maxJobOutputs:
		return nil, "The outputs of the job are larger than 1 MB, they are dropped."
	case d.run.OutputBytes+n > maxRunOutputs:
		return nil, "The outputs of the run's jobs are together larger than 50 MB, those of this job are dropped."
	}
	return outputs, ""
}

func (in Lost) decide(d *decision) error {
	j, err := d.leased(in.Job, in.Lease)
	if err != nil {
		return err
	}
	reason := strings.TrimSpace(in.Reason)
	if reason == "" {
		reason = "The runner was lost."
	}
	begun := !j.Started.IsZero() || len(j.Steps) > 0
	switch {
	case j.Stop != "":
		d.complete(j, Event{Conclusion: Cancelled, Reason: reason, Steps: cutShort(j.Steps, d.now, Cancelled)})
	case !begun && j.Losses < maxLosses:
		d.emit(Event{Type: EventJobRequeued, Job: j.ID, Reason: reason + " The job had not started and is queued again."})
	default:
		if !begun {
			reason += fmt.Sprintf(" %s had the job and none started it.", plural(j.Losses+1, "runner"))
		}
		d.complete(j, Event{Conclusion: Failure, Reason: reason, Steps: cutShort(j.Steps, d.now, Failure),
			Annotations: []Annotation{{Level: "error", Message: reason}}})
	}
	return nil
}

// cutShort ends the steps that were running when nobody watched any more; nil if there are none.
func cutShort(steps []Step, now time.Time, how Conclusion) []Step {
	if !slices.ContainsFunc(steps, func(s Step) bool { return s.Status != Completed }) {
		return nil
	}
	out := slices.Clone(steps)
	for i := range out {
		s := &out[i]
		if s.Status == Completed {
			continue
		}
		was := s.Status
		s.Status, s.Completed, s.Outcome, s.Conclusion = Completed, now, how, how
		if was != InProgress {
			s.Outcome, s.Conclusion = Skipped, Skipped
		}
	}
	return out
}
