package ci

import "maps"

// index finds jobs in Run.Jobs. It is shared between a run and its forks and never written: what changes it makes a new
// one. Jobs are put between others, which moves those behind; so a place is one that a job has had, and it is looked for
// from there on, as far as it can have moved. After many moves the index is built anew.
type index struct {
	places map[JobID]int
	recent map[JobID]int // of jobs that came since places was built
	moved  int           // how far jobs can have moved since then
}

// maxMoved bounds the search for a job. Building anew costs as much as there are jobs, so the sum of both stays small.
const maxMoved = 256

func (x *index) built() bool { return x.places != nil }

func (x *index) build(jobs []*Job) {
	*x = index{places: make(map[JobID]int, len(jobs))}
	for i, j := range jobs {
		x.places[j.ID] = i
	}
}

// insert tells that more was put among jobs at a place.
func (x *index) insert(jobs []*Job, at int, more []*Job) {
	x.moved += len(more)
	if x.moved > maxMoved {
		x.build(jobs)
		return
	}
	recent := make(map[JobID]int, len(x.recent)+len(more))
	maps.Copy(recent, x.recent)
	for i, j := range more {
		recent[j.ID] = at + i
	}
	x.recent = recent
}

// find gives the place of a job, -1 if there is none.
func (x *index) find(jobs []*Job, id JobID) int {
	from, ok := x.places[id]
	if !ok {
		if from, ok = x.recent[id]; !ok {
			return -1
		}
	}
	for i := from; i < len(jobs) && i <= from+x.moved; i++ {
		if jobs[i].ID == id {
			return i
		}
	}
	return -1
}
