package ci

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/expr"
)

const (
	// maxJobs bounds the jobs of one run, matrix cells and the jobs of called workflows included.
	maxJobs = 10000
	// maxCells is how many cells a matrix may have (GitHub's limit).
	maxCells = 256
	// maxSteps, maxJobAnnotations and maxRunAnnotations bound what is kept of reports.
	maxSteps          = 2000
	maxJobAnnotations = 1000
	maxRunAnnotations = 200
	// maxJobOutputs and maxRunOutputs bound outputs, bytes (GitHub's limits).
	maxJobOutputs = 1 << 20
	maxRunOutputs = 50 << 20
	// maxLosses is how often a job is queued again after its lease was lost before it started.
	maxLosses = 3
	// maxAttempts is how often a run may be run, maxRerunAge how old it may be then (GitHub's limits).
	maxAttempts = 50
	maxRerunAge = 30 * 24 * time.Hour
	// maxReviewWait is how long a job waits for reviewers (GitHub's limit).
	maxReviewWait = 30 * 24 * time.Hour
	// backstop is how long after its own limits a runner may still be silent about a job before the run gives it up.
	backstop = time.Minute
)

// New begins a run of a plan and settles what can be settled at once. It gives the run and the events that made it.
func New(id RunID, plan *Plan, now time.Time) (*Run, []Event) {
	d := &decision{run: &Run{Plan: plan}, now: now}
	d.create(id)
	return d.run, d.events
}

// Decide gives the events by which the run answers an input. It changes nothing: the caller applies them. No events and
// no error say that nothing changes. The error is ErrStale or ErrUnknownJob, or wraps ErrRefused.
func (r *Run) Decide(in Input, now time.Time) ([]Event, error) {
	fork := *r
	fork.Jobs = slices.Clone(r.Jobs)
	if !fork.index.built() {
		fork.index.build(fork.Jobs)
	}
	d := &decision{run: &fork, now: now, events: make([]Event, 0, 3)} // what most inputs lead to
	if err := in.decide(d); err != nil {
		return nil, err
	}
	if len(d.events) == 0 {
		return nil, nil
	}
	d.settle()
	return d.events, nil
}

// Ready gives the queued jobs, which a runner may take now, in their order. Limits, groups and gates are behind them.
func (r *Run) Ready() []JobID {
	n := 0
	for _, j := range r.Jobs {
		if j.Status == Queued {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out := make([]JobID, 0, n)
	for _, j := range r.Jobs {
		if j.Status == Queued {
			out = append(out, j.ID)
		}
	}
	return out
}

// Job finds a job by its ID; nil if there is none.
func (r *Run) Job(id JobID) *Job {
	if id == "" {
		return nil
	}
	if at := r.place(id); at >= 0 {
		return r.Jobs[at]
	}
	return nil
}

// place is where a job is in Jobs, -1 if there is none.
func (r *Run) place(id JobID) int {
	if r.index.built() {
		return r.index.find(r.Jobs, id)
	}
	return slices.IndexFunc(r.Jobs, func(j *Job) bool { return j.ID == id })
}

// Deadlines are when the run has something to do by itself, the next first, each to be told by a Tick. Leases are not among
// them: whoever gives them says when they are Lost.
func (r *Run) Deadlines() []time.Time {
	var all []time.Time
	for _, j := range r.Jobs {
		if j.timed() {
			all = append(all, j.Deadline)
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	return slices.CompactFunc(all, time.Time.Equal)
}

// timed reports whether the job does something by itself at its deadline.
func (j *Job) timed() bool {
	if j.Deadline.IsZero() {
		return false
	}
	return j.Status == Waiting || j.Status == InProgress && (!j.Started.IsZero() || j.Stop != "")
}

// Claims gives the concurrency groups that the run or its jobs want now or hold.
func (r *Run) Claims() []Claim {
	if r.Status == Completed {
		return nil
	}
	var out []Claim
	if r.Claim != nil {
		out = append(out, *r.Claim)
	}
	for _, j := range r.Jobs {
		if len(j.Claims) == 0 || j.Status == Completed {
			continue
		}
		for _, c := range j.Claims {
			if !c.Since.IsZero() {
				c.Owner = j.ID
				out = append(out, c)
			}
		}
	}
	return out
}

// matrix is the ID of the matrix whose cell the job is.
func (id JobID) matrix() (JobID, bool) {
	s := string(id)
	slash := strings.LastIndexByte(s, '/')
	if slash < 0 || strings.LastIndexByte(s, ':') > slash {
		return "", false
	}
	return id[:slash], true
}

// inside is the prefix of the IDs of a call's children, empty for root jobs.
func inside(call JobID) JobID {
	if call == "" {
		return ""
	}
	return call + ":"
}

// node is the job among those of its file.
func (r *Run) node(j *Job) *node { return r.Plan.parsed.node(j.File, j.Def) }

// sibling is the job of a node in the same file and call.
func (r *Run) sibling(j *Job, n *node) *Job { return r.Job(inside(j.Parent) + JobID(n.def.ID)) }

// parts are a matrix's cells or a call's jobs, without what they have inside.
func (r *Run) parts(j *Job) []*Job {
	sep := byte(':')
	if j.Expanded {
		sep = '/'
	}
	n := len(j.ID)
	return slices.DeleteFunc(r.within(j), func(k *Job) bool {
		return k.ID[n] != sep || strings.ContainsAny(string(k.ID[n+1:]), ":/")
	})
}

// within are all parts of a matrix or call, however deep.
func (r *Run) within(j *Job) []*Job {
	first := r.place(j.ID) + 1
	end := first
	for end < len(r.Jobs) && j.ID.contains(r.Jobs[end].ID) {
		end++
	}
	return slices.Clone(r.Jobs[first:end])
}

// contains reports whether a job is a part of another, however deep.
func (id JobID) contains(other JobID) bool {
	return len(other) > len(id) && other[:len(id)] == id && (other[len(id)] == ':' || other[len(id)] == '/')
}

// container reports whether the job is a matrix or call whose parts exist.
func (j *Job) container() bool { return j.Expanded || j.Call && j.Status == InProgress }

// result is the job's conclusion as others see it: a failure that is tolerated is a success (as GitHub has it).
func (j *Job) result() Conclusion {
	if j.Tolerated {
		return Success
	}
	return j.Conclusion
}

// joint is the conclusion of several jobs together.
func joint(jobs []*Job) Conclusion {
	rank := []Conclusion{Skipped, Success, Cancelled, Failure}
	worst := 0
	for _, j := range jobs {
		worst = max(worst, slices.Index(rank, j.result()))
	}
	return rank[worst]
}

// inputs is the inputs context of a call's jobs, of the root for the empty ID.
func (r *Run) inputs(call JobID) expr.Value {
	if j := r.Job(call); j != nil {
		return j.Inputs
	}
	return r.Plan.Inputs
}

func at(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
