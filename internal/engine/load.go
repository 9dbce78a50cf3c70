package engine

import "github.com/penstock-ci/penstock/internal/ci"

// Load counts the runs that have not ended and their jobs with steps, by status.
func (e *Engine) Load() (runs, jobs map[ci.Status]int) {
	e.mu.Lock()
	var entries []*entry
	for _, x := range e.runs {
		select {
		case <-x.loaded:
			entries = append(entries, x)
		default: // on its way
		}
	}
	e.mu.Unlock()
	runs, jobs = map[ci.Status]int{}, map[ci.Status]int{}
	for _, x := range entries {
		x.mu.Lock()
		if x.run != nil && x.run.Status != ci.Completed {
			runs[x.run.Status]++
			for _, j := range x.run.Jobs {
				if !j.Call && !j.Expanded {
					jobs[j.Status]++
				}
			}
		}
		x.mu.Unlock()
	}
	return runs, jobs
}
