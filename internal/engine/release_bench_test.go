package engine

import (
	"path/filepath"
	"testing"

	"github.com/penstock-ci/penstock/internal/cd"
)

// BenchmarkReleases is what the shell adds to each release of an environment, on a disk, with instances that are healthy at once:
// beginning it, about a dozen decisions, and taking away the one before.
func BenchmarkReleases(b *testing.B) {
	e := openReleases(b, "sqlite:"+filepath.Join(b.TempDir(), "p.db"), ReleaseOptions{})
	w := newWorld(b.Errorf, e)
	w.start = 0
	w.work(b)
	for b.Loop() {
		e.reaches(b, e.begun(b, toRelease(cd.BlueGreen, "a", "web")), cd.Live)
	}
}
