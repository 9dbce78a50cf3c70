package ci

import "time"

// Input is a fact from outside that a run is told: one of the structs below.
type Input interface {
	decide(d *decision) error
}

// Leased says that a runner holds a queued job.
type Leased struct {
	Job    JobID
	Lease  LeaseID
	Runner string
	Until  time.Time // when the lease ends if it is not renewed; shown, the end itself is told by Lost
}

// Renewed says that a lease is good for longer. It matters only until the job has started.
type Renewed struct {
	Job   JobID
	Lease LeaseID
	Until time.Time
}

// Started says that a job has begun to run; from now on it is never given to another runner. Saying it again changes
// nothing.
type Started struct {
	Job   JobID
	Lease LeaseID
}

// Reported tells how the steps of a job get on.
type Reported struct {
	Job    JobID
	Lease  LeaseID
	Report Report
}

// Finished says how a job has ended.
type Finished struct {
	Job    JobID
	Lease  LeaseID
	Result Result
}

// Lost says that a lease has ended without a result. A job that had not started is queued again, a few times at most;
// any other fails, since nobody knows what it has done.
type Lost struct {
	Job    JobID
	Lease  LeaseID
	Reason string
}

// Reviewed is a reviewer's answer for an environment. It holds for all jobs of the run that wait for it.
type Reviewed struct {
	Environment string
	User        string
	Approve     bool
	Comment     string
}

// Tick says that the deadline At has come, one of Run.Deadlines, and no other: whatever the clock says, which may have been
// set since.
type Tick struct{ At time.Time }

// Cancel asks for the end of the run: jobs that do not run yet are cancelled, running ones get SignalCancel, and only jobs
// and steps whose condition holds now (always()) go on. With Force nothing goes on.
type Cancel struct {
	By     string
	Reason string
	Force  bool
}

// Granted gives a concurrency group to the run (Owner is empty) or one of its jobs.
type Granted struct {
	Key   string
	Owner JobID
}

// Superseded says that a newer claim on a concurrency group takes the place of the run's or job's: it is cancelled,
// waiting or running.
type Superseded struct {
	Key   string
	Owner JobID
	By    RunID
}

// Rerun starts a completed run again, as its next attempt: the jobs named, with those that depend on them; with Failed
// all that failed or were cancelled; with neither, everything. Other jobs are taken over with their outputs. Jobs in
// Resume run again, too, and go on from the step that is named there, unless what they need runs again.
type Rerun struct {
	By     string
	Jobs   []JobID
	Failed bool
	Resume map[JobID]Resume
}
