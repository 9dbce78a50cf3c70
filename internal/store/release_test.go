package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/penstock-ci/penstock/internal/cd"
)

func releasePlan(environment string, services ...string) *cd.Plan {
	p := &cd.Plan{Repository: "Octo/Hello", Environment: environment, By: "mona", Strategy: cd.Strategy{Kind: cd.Rolling}}
	for _, name := range services {
		p.Services = append(p.Services, cd.Service{Name: name, Instances: 1, Revision: cd.Revision{ID: "abc"}})
	}
	return p
}

// beginRelease stores a new release and gives it as it is in memory.
func beginRelease(t testing.TB, s *Store, p *cd.Plan, secrets ...ReleaseSecret) *cd.Release {
	t.Helper()
	r, err := tryBeginRelease(t, s, p, nil, secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryBeginRelease(t testing.TB, s *Store, p *cd.Plan, refuse error, secrets ...ReleaseSecret) (begun *cd.Release, err error) {
	err = s.DecideReleases(t.Context(), noon, func(tx *ReleaseTx) error {
		id, err := tx.NextRelease()
		if err != nil {
			return err
		}
		r, events := cd.New(id, p, noon)
		tx.Begin(r, events, json.RawMessage(`{"hosts":["a.test"]}`), "here")
		for _, c := range secrets {
			c.Release = id
			tx.Keep(c)
		}
		begun = r
		return refuse
	})
	return begun, err
}

// move moves a release to a phase, whatever cd says to it.
func move(t testing.TB, s *Store, id cd.ReleaseID, to cd.Phase) {
	t.Helper()
	err := s.DecideReleases(t.Context(), noon, func(tx *ReleaseTx) error {
		r, err := tx.Release(id)
		if err != nil {
			return err
		}
		from, e := r.Version, cd.Event{Type: cd.EventMoved, At: noon, Phase: to, Text: "moved"}
		r.Apply(e)
		tx.Changed(r, from, []cd.Event{e})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func wantSameRelease(t testing.TB, got, want *cd.Release) {
	t.Helper()
	g, _ := json.MarshalIndent(got, "", " ")
	w, _ := json.MarshalIndent(want, "", " ")
	if string(g) != string(w) {
		t.Errorf("stored is\n%s\nwant\n%s", g, w)
	}
}

func TestReleaseIsStoredWhole(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		p := releasePlan("production", "web", "api")
		p.Reason = "a NUL \x00 and \U0001F680"
		begun := beginRelease(t, s, p)
		got := must(s.Release(ctx, begun.ID))(t)
		wantSameRelease(t, got.Release, begun)
		want(t, "number", got.Number, int64(1))
		want(t, "extra", string(got.Extra), `{"hosts":["a.test"]}`)
		move(t, s, begun.ID, cd.Live)
		after := must(s.Release(ctx, begun.ID))(t)
		want(t, "phase", after.Phase, cd.Live)
		want(t, "version", after.Version, begun.Version+1)

		replayed := &cd.Release{}
		for _, r := range must(s.ReleaseEvents(ctx, begun.ID, 0, 100))(t) {
			replayed.Apply(r.Event)
		}
		wantSameRelease(t, replayed, after.Release)

		_, err := s.Release(ctx, 9)
		wantErr(t, "a release that is not there", err, ErrNotFound)
		_, err = tryBeginRelease(t, s, releasePlan("a\x00b", "web"), nil)
		wantErr(t, "an environment with a NUL", err, ErrUnfit)
	})
}

// Two decisions in one transaction see each other's changes; one that is refused leaves nothing of either, and no gap.
func TestReleaseDecisionsAreAllOrNothing(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		first := beginRelease(t, s, releasePlan("production", "web"))
		no := errors.New("no")
		_, err := tryBeginRelease(t, s, releasePlan("production", "web"), no)
		wantErr(t, "a release that is refused", err, no)
		err = s.DecideReleases(ctx, noon, func(tx *ReleaseTx) error {
			list, err := tx.Active(Place{"octo/hello", "PRODUCTION"})
			if err != nil || len(list) != 1 {
				t.Errorf("active: %v, %v", list, err)
				return err
			}
			for range 2 {
				from, e := list[0].Version, cd.Event{Type: cd.EventNote, At: noon, Text: "noted"}
				list[0].Apply(e)
				tx.Changed(list[0], from, []cd.Event{e})
			}
			same, err := tx.Release(first.ID)
			if same != list[0] || err != nil {
				t.Errorf("read again it is %p, %v, want %p", same, err, list[0])
			}
			if _, err := tx.Release(77); !errors.Is(err, ErrNotFound) {
				t.Errorf("a release that is not there: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "version", must(s.Release(ctx, first.ID))(t).Version, first.Version+2)
		second := beginRelease(t, s, releasePlan("Production", "web"))
		want(t, "the ID after one that was refused", second.ID, first.ID+1)
		want(t, "its number", must(s.Release(ctx, second.ID))(t).Number, int64(2))
		other := beginRelease(t, s, releasePlan("staging", "web"))
		want(t, "the number in another place", must(s.Release(ctx, other.ID))(t).Number, int64(1))
		wantGaplessReleases(t, s)
	})
}

// wantGaplessReleases checks that the records have no gaps and make the snapshots.
func wantGaplessReleases(t testing.TB, s *Store) {
	t.Helper()
	ctx := t.Context()
	replayed := map[cd.ReleaseID]*cd.Release{}
	var after int64
	for {
		page := must(s.ReleaseRecords(ctx, after, 7))(t)
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			if r.Seq != after+1 {
				t.Fatalf("record %d follows %d", r.Seq, after)
			}
			after = r.Seq
			if replayed[r.Release] == nil {
				replayed[r.Release] = &cd.Release{}
			}
			replayed[r.Release].Apply(r.Event)
		}
	}
	want(t, "the last record", must(s.LastReleaseRecord(ctx))(t), after)
	for id, r := range replayed {
		wantSameRelease(t, r, must(s.Release(ctx, id))(t).Release)
	}
}

func TestManyDecideReleases(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		news, runs := s.ReleasesChanged(), s.Changed()
		r := beginRelease(t, s, releasePlan("production", "web"))
		<-news
		select {
		case <-runs:
			if !s.Shared() {
				t.Error("a record of a release woke who waits for those of runs")
			}
		default:
		}
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() {
				for k := range 5 {
					text := fmt.Sprint(n, " ", k)
					err := s.DecideReleases(t.Context(), noon, func(tx *ReleaseTx) error {
						r, err := tx.Release(r.ID)
						if err != nil {
							return err
						}
						from, e := r.Version, cd.Event{Type: cd.EventNote, At: noon, Text: text}
						r.Apply(e)
						tx.Changed(r, from, []cd.Event{e})
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		want(t, "version", must(s.Release(t.Context(), r.ID))(t).Version, r.Version+40)
		wantGaplessReleases(t, s)
	})
}

func TestReleasesAreListed(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		for _, environment := range []string{"production", "staging", "production"} {
			beginRelease(t, s, releasePlan(environment, "web"))
		}
		move(t, s, 1, cd.Retired)
		for _, c := range []struct {
			f    ReleaseFilter
			want []cd.ReleaseID
		}{
			{ReleaseFilter{}, []cd.ReleaseID{3, 2, 1}},
			{ReleaseFilter{Limit: 2}, []cd.ReleaseID{3, 2}},
			{ReleaseFilter{Before: 2}, []cd.ReleaseID{1}},
			{ReleaseFilter{Active: true}, []cd.ReleaseID{3, 2}},
			{ReleaseFilter{Repository: "octo/hello", Environment: "PRODUCTION"}, []cd.ReleaseID{3, 1}},
			{ReleaseFilter{Repository: "octo/hello", Environment: "production", Active: true}, []cd.ReleaseID{3}},
			{ReleaseFilter{Repository: "octo/hello"}, []cd.ReleaseID{3, 2, 1}},
			{ReleaseFilter{Repository: "octo/other"}, nil},
			{ReleaseFilter{Server: "here", Active: true}, []cd.ReleaseID{3, 2}},
			{ReleaseFilter{Server: "there"}, nil},
		} {
			var got []cd.ReleaseID
			for _, r := range must(s.Releases(ctx, c.f))(t) {
				got = append(got, r.ID)
			}
			want(t, fmt.Sprintf("%+v", c.f), got, c.want)
		}
		want(t, "carrier", must(s.Carrier(ctx, Place{"octo/hello", "Staging"}))(t), "here")
		_, err := s.Carrier(ctx, Place{"octo/hello", "nowhere"})
		wantErr(t, "the carrier of nothing", err, ErrNotFound)
		move(t, s, 1, cd.Live) // it gets its place back
		want(t, "active", len(must(s.Releases(ctx, ReleaseFilter{Active: true}))(t)), 3)
	})
}

// The secrets of what may be gone back to are kept, and no others.
func TestReleaseSecrets(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		kept := ReleaseSecret{Service: "web", Value: []byte{0, 1, 0xff}, SealedBy: "k1"}
		live := beginRelease(t, s, releasePlan("production", "web"), kept)
		move(t, s, live.ID, cd.Live)
		failed := beginRelease(t, s, releasePlan("production", "web"), kept)
		move(t, s, failed.ID, cd.Failed)
		var retired []*cd.Release
		for range Restorable + 1 {
			r := beginRelease(t, s, releasePlan("production", "web"), kept)
			move(t, s, r.ID, cd.Retired)
			retired = append(retired, r)
		}
		has := func(id cd.ReleaseID) bool {
			_, err := s.ReleaseSecrets(ctx, id, "web")
			if err != nil && !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
			return err == nil
		}
		want(t, "before the next one begins", has(retired[0].ID), true)
		last := beginRelease(t, s, releasePlan("production", "web"), kept)
		beginRelease(t, s, releasePlan("staging", "web"), kept)
		want(t, "live", has(live.ID), true)
		want(t, "failed", has(failed.ID), false)
		want(t, "one retired too many", has(retired[0].ID), false)
		want(t, "the oldest retired that is kept", has(retired[1].ID), true)
		want(t, "begun", has(last.ID), true)

		kept.Release = last.ID
		want(t, "as stored", must(s.ReleaseSecrets(ctx, last.ID, "web"))(t), kept)
		old := must(s.ReleaseSecretsNotSealedBy(ctx, "k2", 100))(t)
		want(t, "sealed by the old key", len(old), Restorable+3)
		if err := s.ResealReleaseSecret(ctx, old[0], []byte("new"), "k2"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "sealing anew what has changed", s.ResealReleaseSecret(ctx, old[0], []byte("newer"), "k2"), ErrConflict)
		want(t, "left of the old key", len(must(s.ReleaseSecretsNotSealedBy(ctx, "k2", 100))(t)), Restorable+2)
		err := s.DecideReleases(ctx, noon, func(tx *ReleaseTx) error {
			c, ok, err := tx.Secret(old[0].Release, "web")
			if err != nil || !ok || string(c.Value) != "new" || c.SealedBy != "k2" {
				t.Errorf("within a transaction: %+v, %v, %v", c, ok, err)
			}
			_, ok, err = tx.Secret(failed.ID, "web")
			if err != nil || ok {
				t.Errorf("what is not kept: %v, %v", ok, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// What another server does to releases is noticed.
func TestReleasesOfOthersAreNoticed(t *testing.T) {
	url := postgres(t).Database(t)
	here, there := openStore(t, url), openStore(t, url)
	r := beginRelease(t, here, releasePlan("production", "web"))
	for {
		news := there.ReleasesChanged()
		if last := must(there.LastReleaseRecord(t.Context()))(t); last > 0 {
			break
		}
		<-news
	}
	move(t, there, r.ID, cd.Live)
	for {
		news := here.ReleasesChanged()
		if must(here.Release(t.Context(), r.ID))(t).Phase == cd.Live {
			break
		}
		<-news
	}
	beginRelease(t, there, releasePlan("production", "web"))
	wantGaplessReleases(t, here)
}
