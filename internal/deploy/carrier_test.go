package deploy

import (
	"log/slog"
	"testing"

	"github.com/penstock-ci/penstock/internal/cd"
)

// listener is a target that only hears what is wanted.
type listener struct {
	Target
	wanted []Wanted
}

func (l *listener) Ensure(wanted []Wanted) { l.wanted = wanted }

// TestCarryRevives holds that what is ill is started again where it serves for good, and never while a release is judged by it.
func TestCarryRevives(t *testing.T) {
	for phase, want := range map[cd.Phase]bool{cd.Launching: false, cd.Shifting: false, cd.Watching: false, cd.Reverting: false, cd.Live: true} {
		to := &listener{}
		c := &Carrier{Target: to, Log: slog.Default()}
		r := &cd.Release{ID: 1, Phase: phase, Plan: &cd.Plan{Services: []cd.Service{{Name: "web", Instances: 1}}}, Parts: []cd.Part{{Service: "web", Want: 1}}}
		if err := c.Carry(t.Context(), []Carried{{Release: r}}); err != nil {
			t.Fatal(err)
		}
		if len(to.wanted) != 1 || to.wanted[0].Revive != want {
			t.Errorf("%s: %+v, want revive %v", phase, to.wanted, want)
		}
	}
}
