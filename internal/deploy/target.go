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
	Release   cd.ReleaseID
	Service   string
	Revision  cd.Revision
	Instances int
	Health    cd.Health
	// Revive says that instances which were well and are ill for long are started again, with the back-off of those that end.
	// Those of a release under way are not: what they show is what it is judged by.
	Revive bool
	// Name is for people, logs and host names: repository, environment, service.
	Repository, Environment string
}

// Target is where instances run: this host now, others later. One conformance suite holds for all.
type Target interface {
	// Ensure brings about what is wanted, and nothing else, from now on: it starts, health checks, starts again with
	// back-off, drains and stops. It returns at once; Seen is told what becomes of it. Called again, the new list counts.
	Ensure(wanted []Wanted)
	// Run runs a command once in a machine like an instance's, such as a migration, and writes its output. The error is a
	// *sandbox.ExitError if it failed.
	Run(ctx context.Context, w Wanted, command []string, output io.Writer) error
	// Logs gives what an instance has written, the latest lines first asked for, then, with follow, what comes, until ctx ends.
	Logs(ctx context.Context, release cd.ReleaseID, service string, index int, lines int, follow bool, w io.Writer) error
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
