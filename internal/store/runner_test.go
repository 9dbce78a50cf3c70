package store

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRunners(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		big := Runner{Name: "Big", OS: "Linux", Arch: "X64", Labels: []string{"gpu"}, Ephemeral: true, Hash: []byte{1, 0, 0xff}, Created: noon}
		if err := s.AddRunner(ctx, &big); err != nil {
			t.Fatal(err)
		}
		want(t, "runner", must(s.Runner(ctx, big.ID))(t), big)
		want(t, "by its token", must(s.RunnerByHash(ctx, []byte{1, 0, 0xff}))(t), big)
		want(t, "labels", big.AllLabels(), []string{"self-hosted", "Linux", "X64", "gpu"})
		wantErr(t, "its name again", s.AddRunner(ctx, &Runner{Name: "bIG", Hash: []byte{2}, Created: noon}), ErrExists)
		wantErr(t, "its token again", s.AddRunner(ctx, &Runner{Name: "other", Hash: big.Hash, Created: noon}), ErrExists)
		for _, r := range []Runner{
			{}, {Name: " x"}, {Name: "a\x00"}, {Name: strings.Repeat("x", 4000)}, {Name: "x", Labels: []string{""}}, {Name: "x", Labels: []string{"a,b"}},
			{Name: "x", Labels: []string{strings.Repeat("x", 257)}}, {Name: "x", Labels: make([]string, 101)},
		} {
			r.Hash = []byte{3}
			wantErr(t, fmt.Sprintf("runner %.20q %d labels", r.Name, len(r.Labels)), s.AddRunner(ctx, &r), ErrUnfit)
		}
		small := Runner{Name: "small", Hash: []byte{4}, Created: noon}
		if err := s.AddRunner(ctx, &small); err != nil {
			t.Fatal(err)
		}
		for _, at := range []time.Time{noon.Add(time.Hour), noon} { // the time never goes back
			if err := s.TouchRunners(ctx, map[int64]time.Time{big.ID: at, small.ID: noon.Add(time.Minute)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.SetRunnerLabels(ctx, big.ID, []string{"one", "two"}); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "a bad label", s.SetRunnerLabels(ctx, big.ID, []string{"a,b"}), ErrUnfit)
		big.Labels, big.Seen = []string{"one", "two"}, noon.Add(time.Hour)
		all := must(s.Runners(ctx, 0, 10))(t)
		if len(all) != 2 {
			t.Fatalf("got %v", all)
		}
		want(t, "first", all[0], big)
		want(t, "when the second was seen", all[1].Seen, noon.Add(time.Minute))
		want(t, "the next page", len(must(s.Runners(ctx, big.ID, 10))(t)), 1)
		if err := s.DeleteRunner(ctx, big.ID); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "deleted again", s.DeleteRunner(ctx, big.ID), ErrNotFound)
		wantErr(t, "labels of one that is gone", s.SetRunnerLabels(ctx, big.ID, nil), ErrNotFound)
		_, err := s.RunnerByHash(ctx, []byte{1, 0, 0xff})
		wantErr(t, "its token", err, ErrNotFound)
		if err := s.TouchRunners(ctx, map[int64]time.Time{big.ID: noon}); err != nil {
			t.Error(err)
		}
	})
}
