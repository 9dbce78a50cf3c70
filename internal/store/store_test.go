package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

const twoCells = `on: push
jobs:
  test:
    runs-on: ubuntu-latest
    strategy:
      matrix:
        n: [1, 2]
    steps:
      - run: echo
`

// everyKind runs a test on every kind of database there is: the conformance suite of this room.
func everyKind(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Run("sqlite:memory", func(t *testing.T) { test(t, openStore(t, "sqlite::memory:")) })
	t.Run("sqlite:file", func(t *testing.T) {
		test(t, openStore(t, "sqlite:"+filepath.Join(t.TempDir(), "new folder", "a?b#c%d.db")))
	})
	t.Run("postgres", func(t *testing.T) { test(t, openStore(t, postgres(t).Database(t))) })
}

func openStore(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func plan(t testing.TB, workflow string, change func(*ci.Plan)) *ci.Plan {
	t.Helper()
	rest := ci.Plan{
		Event: "push", Repository: "octo/hello",
		GitHub: expr.FromStrings(map[string]string{
			"ref": "refs/heads/main", "ref_name": "main", "sha": "abc123", "actor": "mona", "head_ref": "", "event_name": "push",
			"repository": "octo/hello", "workflow": "CI",
		}),
	}
	if change != nil {
		change(&rest)
	}
	p, err := ci.NewPlan(ci.File{Path: ".github/workflows/ci.yml", Text: workflow}, nil, rest)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// create stores a new run and gives it as it is in memory.
func create(t testing.TB, s *Store, p *ci.Plan) *ci.Run {
	t.Helper()
	run, err := tryCreate(s, p)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func tryCreate(s *Store, p *ci.Plan) (*ci.Run, error) {
	var run *ci.Run
	ended := make(chan error, 1)
	s.Create(p, func(id ci.RunID, p *ci.Plan) (Save, error) {
		var events []ci.Event
		run, events = ci.New(id, p, noon)
		return Save{Run: run, Events: events, Claims: run.Claims()}, nil
	}, func(_ Save, err error) { ended <- err })
	return run, <-ended
}

// step lets a run decide and stores what came of it.
func step(t testing.TB, s *Store, run *ci.Run, in ci.Input) {
	t.Helper()
	if err := tryStep(s, run, in); err != nil {
		t.Fatal(err)
	}
}

func tryStep(s *Store, run *ci.Run, in ci.Input) error {
	from, before := run.Version, slices.Clone(run.Jobs)
	events, err := run.Decide(in, noon)
	if err != nil {
		return err
	}
	for _, e := range events {
		run.Apply(e)
	}
	ended := make(chan error, 1)
	s.Save(Save{Run: run, From: from, Before: before, Events: events, Claims: run.Claims(), ClaimsChanged: true}, func(err error) { ended <- err })
	return <-ended
}

func load(t testing.TB, s *Store, id ci.RunID) *ci.Run {
	t.Helper()
	run, err := s.Run(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// text is a run as JSON, for comparing.
func text(t testing.TB, run *ci.Run) string {
	t.Helper()
	p, err := json.MarshalIndent(run, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func wantSame(t testing.TB, got, want *ci.Run) {
	t.Helper()
	if got, want := text(t, got), text(t, want); got != want {
		t.Errorf("run as stored differs from run in memory\ngot  %s\nwant %s", got, want)
	}
}

func TestRunIsStoredWhole(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		run := create(t, s, plan(t, twoCells, nil))
		wantSame(t, load(t, s, run.ID), run)
		job := run.Jobs[len(run.Jobs)-1].ID
		for _, in := range []ci.Input{
			ci.Leased{Job: job, Lease: "L", Runner: "r", Until: noon},
			ci.Started{Job: job, Lease: "L"},
			ci.Reported{Job: job, Lease: "L", Report: ci.Report{Steps: []ci.Step{{Number: 1, Name: "Set up job", Status: ci.InProgress}}}},
			ci.Finished{Job: job, Lease: "L", Result: ci.Result{Conclusion: ci.Failure, Outputs: map[string]string{"a": "\x00 b"}}},
		} {
			step(t, s, run, in)
			got := load(t, s, run.ID)
			wantSame(t, got, run)
			if got.Plan.GitHub.Property("run_id").Text() != fmt.Sprint(run.ID) || got.Plan.Root() == nil {
				t.Errorf("the plan came back with run_id %q, root %v", got.Plan.GitHub.Property("run_id").Text(), got.Plan.Root())
			}
		}
		wantReplay(t, s, run.ID)
	})
}

// wantReplay checks that the stored records of a run make its stored snapshot.
func wantReplay(t testing.TB, s *Store, id ci.RunID) {
	t.Helper()
	records, err := s.Events(context.Background(), id, 0, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	stored := load(t, s, id)
	replayed := &ci.Run{Plan: stored.Plan}
	for _, r := range records {
		replayed.Apply(r.Event)
	}
	wantSame(t, stored, replayed)
}

func TestNumbersHaveNoGaps(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ofOther := func(p *ci.Plan) { p.Repository = "octo/other" }
		_, err := tryRefusedCreate(s, plan(t, twoCells, nil))
		if err == nil || !strings.Contains(err.Error(), "not today") {
			t.Errorf("refused Create = %v, want its error", err)
		}
		for i, c := range []struct {
			plan   *ci.Plan
			number string
		}{
			{plan(t, twoCells, nil), "1"}, {plan(t, twoCells, nil), "2"}, {plan(t, twoCells, ofOther), "1"}, {plan(t, twoCells, nil), "3"},
		} {
			run := create(t, s, c.plan)
			github := run.Plan.GitHub
			if run.ID != ci.RunID(i+1) || github.Property("run_id").Text() != fmt.Sprint(i+1) ||
				github.Property("run_number").Text() != c.number || github.Property("run_attempt").Text() != "1" {
				t.Errorf("run %d has ID %d, run_id %s, run_number %s, want number %s", i+1, run.ID,
					github.Property("run_id").Text(), github.Property("run_number").Text(), c.number)
			}
			tryRefusedCreate(s, c.plan)
		}
	})
}

func tryRefusedCreate(s *Store, p *ci.Plan) (*ci.Run, error) {
	ended := make(chan error, 1)
	s.Create(p, func(ci.RunID, *ci.Plan) (Save, error) { return Save{}, errors.New("not today") }, func(_ Save, err error) { ended <- err })
	return nil, <-ended
}

func TestEqualPlansAreStoredOnce(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		for range 5 {
			create(t, s, plan(t, twoCells, nil))
		}
		create(t, s, plan(t, twoCells, func(p *ci.Plan) { p.Repository = "octo/other" }))
		var n int
		if err := s.reader.QueryRow(`SELECT COUNT(*) FROM plans`).Scan(&n); err != nil || n != 2 {
			t.Errorf("%d plans are stored (%v), want 2", n, err)
		}
	})
}

func TestConflictWritesNothing(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		run := create(t, s, plan(t, twoCells, nil))
		other := load(t, s, run.ID)
		step(t, s, run, ci.Cancel{By: "mona"})
		before, err := s.LastRecord(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := tryStep(s, other, ci.Cancel{By: "hubot"}); !errors.Is(err, ErrConflict) {
			t.Errorf("saving an outdated run = %v, want ErrConflict", err)
		}
		wantSame(t, load(t, s, run.ID), run)
		if after, _ := s.LastRecord(t.Context()); after != before {
			t.Errorf("last record = %d, want %d", after, before)
		}
		if _, err := s.Run(t.Context(), 99); !errors.Is(err, ErrNotFound) {
			t.Errorf("loading a run that is not = %v, want ErrNotFound", err)
		}
	})
}

// Many writers at once, each on runs of its own and on one that all want to change: what is acknowledged is stored, in
// the order of the calls, and the records have no gaps.
func TestManyWriters(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		const writers, each = 16, 6
		shared := create(t, s, plan(t, twoCells, nil))
		var all sync.WaitGroup
		var mu sync.Mutex
		var won int
		for range writers {
			all.Go(func() {
				for range each {
					mine, err := tryCreate(s, plan(t, twoCells, nil))
					if err != nil {
						t.Error(err)
						return
					}
					if err := tryStep(s, mine, ci.Cancel{By: "mona"}); err != nil {
						t.Error(err)
					}
				}
				err := tryStep(s, load(t, s, shared.ID), ci.Cancel{By: "mona"})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case !errors.Is(err, ErrConflict) && !errors.Is(err, ci.ErrStale):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won != 1 {
			t.Errorf("%d writers changed the run from one version, want 1", won)
		}
		wantGapless(t, s)
		for id := range ci.RunID(writers*each + 1) {
			wantReplay(t, s, id+1)
		}
	})
}

func wantGapless(t testing.TB, s *Store) {
	t.Helper()
	var after int64
	for {
		page, err := s.Records(context.Background(), after, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			if r.Seq != after+1 {
				t.Fatalf("record %d follows %d", r.Seq, after)
			}
			after = r.Seq
		}
		if len(page) == 0 {
			break
		}
	}
	if last, err := s.LastRecord(context.Background()); err != nil || last != after {
		t.Errorf("LastRecord = %d, %v, want %d", last, err, after)
	}
}

func TestSavesEndInOrder(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		var ids []ci.RunID
		var all sync.WaitGroup
		p := plan(t, twoCells, nil)
		for range 300 { // more than go into one transaction
			all.Add(1)
			s.Create(p, func(id ci.RunID, p *ci.Plan) (Save, error) {
				run, events := ci.New(id, p, noon)
				return Save{Run: run, Events: events}, nil
			}, func(step Save, err error) {
				defer all.Done()
				if err != nil {
					t.Error(err)
					return
				}
				ids = append(ids, step.Run.ID) // one goroutine: no lock
			})
		}
		all.Wait()
		if len(ids) != 300 || !slices.IsSorted(ids) {
			t.Errorf("runs were acknowledged in the order %v", ids)
		}
	})
}

func TestChangedWakes(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		news := s.Changed()
		select {
		case <-news:
			t.Error("Changed is closed before there is a change")
		default:
		}
		create(t, s, plan(t, twoCells, nil))
		<-news
	})
}

func TestRunsAreListed(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		main := create(t, s, plan(t, twoCells, nil))
		pull := create(t, s, plan(t, twoCells, func(p *ci.Plan) {
			p.Event = "pull_request"
			p.GitHub = p.GitHub.With("head_ref", expr.String("topic")).With("ref", expr.String("refs/pull/1/merge")).With("ref_name", expr.String("1/merge"))
		}))
		tag := create(t, s, plan(t, twoCells, func(p *ci.Plan) {
			p.Repository = "octo/other"
			p.GitHub = p.GitHub.With("ref", expr.String("refs/tags/v1")).With("ref_name", expr.String("v1"))
		}))
		step(t, s, main, ci.Cancel{By: "mona"})
		for _, c := range []struct {
			name   string
			filter Filter
			want   []ci.RunID
		}{
			{"all", Filter{}, []ci.RunID{3, 2, 1}},
			{"limit", Filter{Limit: 2}, []ci.RunID{3, 2}},
			{"page", Filter{Limit: 2, Before: 2}, []ci.RunID{1}},
			{"repository", Filter{Repository: "octo/hello"}, []ci.RunID{2, 1}},
			{"branch of a push", Filter{Branch: "main"}, []ci.RunID{1}},
			{"branch of a pull request", Filter{Branch: "topic"}, []ci.RunID{2}},
			{"tag", Filter{Branch: "v1"}, []ci.RunID{3}},
			{"event", Filter{Event: "pull_request"}, []ci.RunID{2}},
			{"workflow", Filter{Workflow: ".github/workflows/none.yml"}, nil},
			{"status", Filter{Status: "completed"}, []ci.RunID{1}},
			{"conclusion", Filter{Status: "cancelled"}, []ci.RunID{1}},
			{"quoted", Filter{Branch: "' OR ''='"}, nil},
		} {
			list, err := s.Runs(t.Context(), c.filter)
			if err != nil {
				t.Fatal(err)
			}
			var got []ci.RunID
			for _, r := range list {
				got = append(got, r.ID)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, got, c.want)
			}
		}
		list, err := s.Runs(t.Context(), Filter{Status: "cancelled"})
		if err != nil || len(list) != 1 {
			t.Fatalf("list = %v, %v", list, err)
		}
		want := Summary{
			ID: 1, Repository: "octo/hello", Workflow: ".github/workflows/ci.yml", Number: 1, Event: "push", Branch: "main", SHA: "abc123",
			Actor: "mona", Name: main.Name, Attempt: 1, Status: ci.Completed, Conclusion: ci.Cancelled, Created: noon,
			Started: main.Started, Completed: main.Completed, Version: main.Version,
		}
		if list[0] != want {
			t.Errorf("summary = %+v, want %+v", list[0], want)
		}
		active, err := s.Active(t.Context())
		if want := []ci.RunID{pull.ID, tag.ID}; err != nil || !slices.Equal(active, want) {
			t.Errorf("Active = %v, %v, want %v", active, err, want)
		}
	})
}

func TestChanges(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		changes := func(after int64) map[ci.RunID]int64 {
			t.Helper()
			versions, last, err := s.Changes(t.Context(), after)
			if stored, lastErr := s.LastRecord(t.Context()); err != nil || lastErr != nil || last != stored {
				t.Errorf("Changes = %d, %v; the last record is %d, %v", last, err, stored, lastErr)
			}
			return versions
		}
		want(t, "changes of nothing", len(changes(0)), 0)
		expected := map[ci.RunID]int64{}
		var runs []*ci.Run
		for range 3 {
			run := create(t, s, plan(t, twoCells, nil))
			runs = append(runs, run)
			expected[run.ID] = run.Version
		}
		want(t, "changes", changes(0), expected)
		last := must(s.LastRecord(t.Context()))(t)
		want(t, "changes after the last record", len(changes(last)), 0)
		step(t, s, runs[1], ci.Cancel{By: "mona"})
		want(t, "changes since then", changes(last), map[ci.RunID]int64{runs[1].ID: runs[1].Version})
	})
}

func TestGroupHasOneHolder(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		save := func(run *ci.Run, held bool, name string) error {
			ended := make(chan error, 1)
			claims := []ci.Claim{{Key: name, Held: held, Since: noon}}
			s.Save(Save{Run: run, From: run.Version, Before: run.Jobs, Claims: claims, ClaimsChanged: true}, func(err error) { ended <- err })
			return <-ended
		}
		one, two := create(t, s, plan(t, twoCells, nil)), create(t, s, plan(t, twoCells, nil))
		other := create(t, s, plan(t, twoCells, func(p *ci.Plan) { p.Repository = "octo/other" }))
		for _, c := range []struct {
			run  *ci.Run
			held bool
			name string
			want error
		}{
			{one, true, "deploy", nil}, {two, false, "deploy", nil}, {two, true, "deploy", ErrHeld}, {two, true, "else", nil},
			{other, true, "deploy", nil}, {one, false, "deploy", nil}, {two, true, "deploy", nil}, {one, true, "deploy", ErrHeld},
		} {
			if err := save(c.run, c.held, c.name); !errors.Is(err, c.want) {
				t.Errorf("run %d, held %v of %s: %v, want %v", c.run.ID, c.held, c.name, err, c.want)
			}
		}
		claims, err := s.Claims(t.Context(), "octo/hello", "deploy")
		if err != nil || len(claims) != 2 || claims[0].Run != one.ID || claims[0].Held || claims[1].Run != two.ID || !claims[1].Held {
			t.Errorf("claims = %+v, %v, want that of run 1 waiting and that of run 2 holding", claims, err)
		}
		all, err := s.AllClaims(t.Context())
		if err != nil || len(all) != 3 {
			t.Errorf("AllClaims = %+v, %v, want three", all, err)
		}
	})
}

// Writes that share a transaction: the trouble of one is not that of the others.
func TestOneFailsAlone(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		gate := make(chan struct{})
		s.writer.enqueue(write{exec: func(*batch) error { <-gate; return nil }, done: func(error) {}})
		var results []error
		var all sync.WaitGroup
		p := plan(t, twoCells, nil)
		for n := range 5 {
			all.Add(1)
			s.Create(p, func(id ci.RunID, p *ci.Plan) (Save, error) {
				run, events := ci.New(id, p, noon)
				step := Save{Run: run, Events: events}
				if n == 1 || n == 3 { // the second of them can not have it
					step.Claims = []ci.Claim{{Key: "g", Held: true}}
				}
				return step, nil
			}, func(_ Save, err error) {
				results = append(results, err)
				all.Done()
			})
		}
		close(gate)
		all.Wait()
		for n, err := range results {
			if n == 3 && !errors.Is(err, ErrHeld) || n != 3 && err != nil {
				t.Errorf("write %d: %v", n, err)
			}
		}
		if list, err := s.Runs(t.Context(), Filter{}); err != nil || len(list) != 4 || list[0].ID != 4 {
			t.Errorf("runs %+v, %v are stored, want four without a gap", list, err)
		}
		wantGapless(t, s)
	})
}

func TestWhatIsAcknowledgedIsOnTheDisk(t *testing.T) {
	s := openStore(t, "sqlite:"+filepath.Join(t.TempDir(), "p.db"))
	wantSettings(t, s.writer.db, "PRAGMA ", map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1"}) // 2 is FULL
	s = openStore(t, postgres(t).Database(t)+"&synchronous_commit=off")
	wantSettings(t, s.writer.db, "SHOW ", map[string]string{
		"synchronous_commit": "on", "idle_in_transaction_session_timeout": "10s", "default_transaction_isolation": "read committed",
	})
	wantSettings(t, s.reader, "SHOW ", map[string]string{
		"default_transaction_read_only": "on", "default_transaction_isolation": "repeatable read", "statement_timeout": "1min",
	})
}

func wantSettings(t *testing.T, db *sql.DB, show string, settings map[string]string) {
	t.Helper()
	for name, want := range settings {
		var got string
		if err := db.QueryRow(show + name).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %q, %v, want %q", name, got, err, want)
		}
	}
}

// Readers that give up do not harm a database that lives in one connection.
func TestReadersThatGiveUp(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		run := create(t, s, plan(t, twoCells, nil))
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() {
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*50*time.Microsecond)
					s.Run(ctx, run.ID)
					s.Records(ctx, 0, 10)
					cancel()
				}
			})
		}
		for range 20 {
			create(t, s, plan(t, twoCells, nil))
		}
		all.Wait()
		wantSame(t, load(t, s, run.ID), run)
		wantGapless(t, s)
	})
}
