package ci

import (
	"cmp"
	"fmt"
	"slices"
)

// stop ends a job early, and all its parts. With spare, what does not hang on the fate of others goes on: jobs whose
// condition holds though they are cancelled (always()). Parts that wait for their needs are left to their condition,
// except with SignalKill.
func (d *decision) stop(j *Job, how Signal, reason string, spare bool) {
	switch {
	case j.Status == Completed || j.Stop == SignalKill || j.Stop == how:
	case j.container():
		if !spare {
			d.emit(Event{Type: EventJobStopping, Job: j.ID, Stop: how, Reason: reason})
		}
		for _, k := range d.run.parts(j) {
			if k.Waits != WaitNeeds || how == SignalKill {
				d.stop(k, how, reason, spare || how != SignalKill)
			}
		}
	case spare && d.persists(j):
	case j.Status == InProgress:
		e := Event{Type: EventJobStopping, Job: j.ID, Stop: how, Reason: reason, Until: d.now.Add(backstop)}
		if how == SignalCancel {
			e.Until = e.Until.Add(cmp.Or(j.CancelTimeout, DefaultCancelTimeout))
		}
		d.emit(e)
	default:
		d.drop(j, Cancelled, reason)
	}
}

// persists reports whether a job goes on though it is cancelled: its condition holds even so, as always() does.
func (d *decision) persists(j *Job) bool {
	ok, bad := d.run.holds(j)
	return ok && bad == nil
}

func (in Cancel) decide(d *decision) error {
	if d.run.Status == Completed {
		return ErrStale
	}
	how := SignalCancel
	if in.Force {
		how = SignalKill
	}
	if d.run.Stop == SignalKill || d.run.Stop == how {
		return nil
	}
	reason := in.Reason
	if reason == "" {
		reason = "The run was canceled by @" + in.By + "."
		if in.By == "" {
			reason = "The run was canceled."
		}
	}
	d.cancel(how, in.By, reason)
	return nil
}

// cancel ends the run early. A run that had not begun ends at once.
func (d *decision) cancel(how Signal, by, reason string) {
	begun := d.run.granted()
	d.emit(Event{Type: EventRunStopping, Stop: how, By: by, Reason: reason})
	for _, j := range d.run.roots() {
		switch {
		case !begun || how == SignalKill:
			d.stop(d.run.Job(j.ID), SignalKill, reason, false)
		case j.Waits != WaitNeeds:
			d.stop(j, how, reason, true)
		}
	}
}

func (in Granted) decide(d *decision) error {
	if in.Owner == "" {
		c := d.run.Claim
		if c == nil || c.Key != in.Key || d.run.Status == Completed {
			return ErrStale
		}
		if !c.Held {
			d.emit(Event{Type: EventRunGranted})
			d.open()
		}
		return nil
	}
	j, c, err := d.claimant(in.Owner, in.Key)
	if err != nil || c.Held {
		return err
	}
	d.emit(Event{Type: EventJobGranted, Job: j.ID, Key: in.Key})
	d.move(j.ID, true)
	return nil
}

func (in Superseded) decide(d *decision) error {
	reason := fmt.Sprintf("Canceling since a higher priority waiting request for %s exists", in.Key)
	if in.By != 0 && in.By != d.run.ID {
		reason += fmt.Sprintf(" (run %d)", in.By)
	}
	if in.Owner == "" {
		c := d.run.Claim
		if c == nil || c.Key != in.Key || d.run.Status == Completed {
			return ErrStale
		}
		if d.run.Stop == "" {
			d.cancel(SignalCancel, "", reason)
		}
		return nil
	}
	j, _, err := d.claimant(in.Owner, in.Key)
	if err != nil {
		return err
	}
	d.stop(j, SignalCancel, reason, false)
	return nil
}

// claimant finds a job that wants or holds a concurrency group.
func (d *decision) claimant(id JobID, key string) (*Job, Claim, error) {
	j := d.run.Job(id)
	if j == nil {
		return nil, Claim{}, ErrUnknownJob
	}
	i := slices.IndexFunc(j.Claims, func(c Claim) bool { return c.Key == key && !c.Since.IsZero() })
	if i < 0 || j.Status == Completed {
		return nil, Claim{}, ErrStale
	}
	return j, j.Claims[i], nil
}
