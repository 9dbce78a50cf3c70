// Package deploy carries out what cd decides: it runs instances of revisions on a target, asks after their health, runs
// hooks, and makes the proxy's table of the releases.
//
// It decides nothing and stores nothing: it brings about what is wanted and tells what it sees.
package deploy

import (
	"context"
	"io"

	"github.com/penstock-ci/penstock/internal/cd"
)

// Wanted is what is to run of one service of a release. All that a target is given is the whole of it: what is not in it
// any more is stopped.
type Wanted struct {
	Release   cd.ReleaseID `json:"release"`
	Service   string       `json:"service"`
	Revision  cd.Revision  `json:"revision"`
	Instances int          `json:"instances"`
	Health    cd.Health    `json:"health"`
	// Repository and Environment are for people, logs and host names.
	Repository  string `json:"repository"`
	Environment string `json:"environment"`
	// Machines are those that the instances run on, by name: instance i on machine i modulo their number. Empty is the server's
	// own. Part and Parts say which of the instances are a target's: those whose index modulo Parts is Part; without Parts, all.
	Machines []string `json:"machines,omitempty"`
	Part     int      `json:"part,omitempty"`
	Parts    int      `json:"parts,omitempty"`
	// Revive says that instances which were well and are ill for long are started again, with the back-off of those that end.
	// Those of a release under way are not: what they show is what it is judged by.
	Revive bool `json:"revive,omitempty"`
	// Known are the instances as they were told. Of those that are neither wanted nor there any more a target tells again that
	// they are cd.Stopped: their end may have been missed.
	Known []cd.Instance `json:"known,omitempty"`
}

// has says whether an instance is of the part of w.
func (w *Wanted) has(index int) bool {
	return index >= 0 && (w.Parts <= 1 || index%w.Parts == w.Part)
}

// instances are those that are wanted.
func (w *Wanted) instances() []instanceID {
	var ids []instanceID
	for index := range w.Instances {
		if w.has(index) {
			ids = append(ids, instanceID{w.Release, w.Service, index})
		}
	}
	return ids
}

// left are those that were told of and are not wanted.
func (w *Wanted) left() []instanceID {
	var ids []instanceID
	for _, i := range w.Known {
		if i.Index >= w.Instances && w.has(i.Index) {
			ids = append(ids, instanceID{w.Release, w.Service, i.Index})
		}
	}
	return ids
}

// Target is where instances run: this host, or several machines. One conformance suite holds for all.
type Target interface {
	// Ensure brings about what is wanted, and nothing else, from now on: it starts, health checks, starts again with
	// back-off, drains and stops. It returns at once; Seen is told what becomes of it. Called again, the new list counts.
	Ensure(wanted []Wanted)
	// Run runs a command once in a machine like an instance's, such as a migration, and writes its output. The error is a
	// *sandbox.ExitError if it failed.
	Run(ctx context.Context, w Wanted, command []string, output io.Writer) error
	// Logs gives what an instance of w has written, the latest lines first asked for, then, with follow, what comes, until ctx
	// ends. The error wraps fs.ErrNotExist if there is nothing.
	Logs(ctx context.Context, w Wanted, index int, lines int, follow bool, out io.Writer) error
	// Close stops looking after the instances. They run on: another Target of the same place takes them over.
	Close() error
}

// Options are what a target is told of its surroundings.
type Options struct {
	// Seen is told of every change of an instance, in order, one call at a time. It is told again after an error.
	Seen func(ctx context.Context, release cd.ReleaseID, o cd.Observed) error
	// Secrets gives the values of a revision's secrets, resolved as it starts and never stored.
	Secrets func(ctx context.Context, release cd.ReleaseID, service string) (map[string]string, error)
	// Artifact gives the files of an artifact by its digest, as a tar stream.
	Artifact func(ctx context.Context, digest string) (io.ReadCloser, error)
	// Drained waits until nothing is under way to an address any more, or ctx ends. It is called before an instance is stopped.
	Drained func(ctx context.Context, addr string) error
}
