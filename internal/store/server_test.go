package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
)

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func want(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func addUser(t testing.TB, s *Store, login string) User {
	t.Helper()
	u := User{Login: login, Created: noon}
	if err := s.AddUser(t.Context(), &u); err != nil {
		t.Fatal(err)
	}
	return u
}

func addRepository(t testing.TB, s *Store, owner, name string) Repository {
	t.Helper()
	r := Repository{Owner: owner, Name: name, DefaultBranch: "main", Created: noon}
	if err := s.AddRepository(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestUsers(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		mona, hubot := addUser(t, s, "Mona"), addUser(t, s, "hubot")
		wantErr(t, "a login twice", s.AddUser(ctx, &User{Login: "MONA"}), ErrExists)
		wantErr(t, "a login with a NUL", s.AddUser(ctx, &User{Login: "a\x00b"}), ErrUnfit)
		wantErr(t, "a login that is long", s.AddUser(ctx, &User{Login: strings.Repeat("a", 5000)}), ErrUnfit)
		want(t, "the ID after one that was refused", hubot.ID, int64(2))
		want(t, "by login", must(s.UserNamed(ctx, "mONA"))(t), mona)
		if err := s.SetAdmin(ctx, mona.ID, true); err != nil {
			t.Fatal(err)
		}
		mona.Admin = true
		want(t, "by ID", must(s.User(ctx, mona.ID))(t), mona)
		want(t, "all", must(s.Users(ctx, 0, 10))(t), []User{mona, hubot})
		want(t, "the second page", must(s.Users(ctx, 1, 10))(t), []User{hubot})
		_, err := s.UserNamed(ctx, "nobody\x00")
		wantErr(t, "nobody", err, ErrNotFound)
		wantErr(t, "nobody as an admin", s.SetAdmin(ctx, 9, true), ErrNotFound)

		r := addRepository(t, s, "octo", "hello")
		if err := errors.Join(s.SetMember(ctx, r.ID, hubot.ID, "write"), s.AddToken(ctx, &Token{User: hubot.ID, Hash: []byte("h")}),
			s.DeleteUser(ctx, hubot.ID), s.DeleteUser(ctx, hubot.ID)); err != nil {
			t.Fatal(err)
		}
		_, err = s.User(ctx, hubot.ID)
		wantErr(t, "a deleted user", err, ErrNotFound)
		_, _, err = s.TokenByHash(ctx, []byte("h"))
		wantErr(t, "the token of a deleted user", err, ErrNotFound)
		want(t, "the ID after a deleted one", addUser(t, s, "hubot").ID, int64(3))
	})
}

func TestTokens(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		mona := addUser(t, s, "Mona")
		tok := Token{User: mona.ID, Name: "laptop", Hash: []byte{0, 1, 0xff}, Scopes: []string{"repo", "workflow"}, Created: noon, Expires: noon.Add(time.Hour)}
		if err := s.AddToken(ctx, &tok); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "a hash twice", s.AddToken(ctx, &Token{User: mona.ID, Hash: []byte{0, 1, 0xff}}), ErrExists)
		wantErr(t, "a token of nobody", s.AddToken(ctx, &Token{User: 9, Hash: []byte{2}}), ErrNotFound)
		other := Token{User: mona.ID, Hash: []byte{3}, Scopes: []string{}}
		if err := s.AddToken(ctx, &other); err != nil {
			t.Fatal(err)
		}
		for _, at := range []time.Time{noon.Add(time.Minute), noon} { // what is older changes nothing
			if err := s.TouchToken(ctx, tok.ID, at); err != nil {
				t.Fatal(err)
			}
		}
		tok.Used = noon.Add(time.Minute)
		got, user, err := s.TokenByHash(ctx, []byte{0, 1, 0xff})
		if err != nil {
			t.Fatal(err)
		}
		want(t, "by hash", got, tok)
		want(t, "its user", user, mona)
		want(t, "of the user", must(s.Tokens(ctx, mona.ID))(t), []Token{tok, other})
		for _, hash := range [][]byte{{0, 1}, {0, 1, 0xff, 0}, {}, nil} {
			_, _, err = s.TokenByHash(ctx, hash)
			wantErr(t, fmt.Sprintf("hash %x", hash), err, ErrNotFound)
		}
		wantErr(t, "deleting a token of another", s.DeleteToken(ctx, 9, tok.ID), ErrNotFound)
		if err := s.DeleteToken(ctx, mona.ID, tok.ID); err != nil {
			t.Fatal(err)
		}
		_, _, err = s.TokenByHash(ctx, tok.Hash)
		wantErr(t, "a deleted token", err, ErrNotFound)
	})
}

func TestRepositories(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		mona, hubot := addUser(t, s, "Mona"), addUser(t, s, "hubot")
		hello, other, third := addRepository(t, s, "Octo", "Hello"), addRepository(t, s, "octo", "other"), addRepository(t, s, "octopus", "hello")
		wantErr(t, "a name twice", s.AddRepository(ctx, &Repository{Owner: "octo", Name: "hello"}), ErrExists)
		hello.Private, hello.Archived, hello.DefaultBranch = true, true, "trunk"
		if err := s.SaveRepository(ctx, hello); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "saving one that is not", s.SaveRepository(ctx, Repository{ID: 9}), ErrNotFound)
		want(t, "by name", must(s.RepositoryNamed(ctx, "OCTO", "heLLo"))(t), hello)
		want(t, "by ID", must(s.Repository(ctx, hello.ID))(t), hello)
		_, err := s.RepositoryNamed(ctx, "octo", "none")
		wantErr(t, "none", err, ErrNotFound)

		for _, err := range []error{
			s.SetMember(ctx, hello.ID, mona.ID, "read"), s.SetMember(ctx, hello.ID, mona.ID, "admin"), s.SetMember(ctx, hello.ID, hubot.ID, "write"),
			s.SetMember(ctx, other.ID, mona.ID, "maintain"), s.RemoveMember(ctx, other.ID, hubot.ID),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		wantErr(t, "a role that is not", s.SetMember(ctx, hello.ID, mona.ID, "owner"), ErrUnfit)
		wantErr(t, "a member who is not", s.SetMember(ctx, hello.ID, 9, "read"), ErrNotFound)
		wantErr(t, "a member of nothing", s.SetMember(ctx, 9, mona.ID, "read"), ErrNotFound)
		want(t, "members", must(s.Members(ctx, hello.ID))(t), []Member{{mona, "admin"}, {hubot, "write"}})
		want(t, "role of a stranger", must(s.Role(ctx, third.ID, mona.ID))(t), "")
		want(t, "role", must(s.Role(ctx, hello.ID, mona.ID))(t), "admin")
		if err := s.RemoveMember(ctx, hello.ID, mona.ID); err != nil {
			t.Fatal(err)
		}
		want(t, "role of one who left", must(s.Role(ctx, hello.ID, mona.ID))(t), "")

		for _, c := range []struct {
			name   string
			filter RepositoryFilter
			want   []Repository
		}{
			{"all", RepositoryFilter{}, []Repository{hello, other, third}},
			{"of an owner", RepositoryFilter{Owner: "OCTO"}, []Repository{hello, other}},
			{"public", RepositoryFilter{Public: true}, []Repository{other, third}},
			{"of a member", RepositoryFilter{Member: mona.ID}, []Repository{other}},
			{"of a member, page", RepositoryFilter{After: other.ID, Limit: 1}, []Repository{third}},
		} {
			want(t, c.name, must(s.Repositories(ctx, c.filter))(t), c.want)
		}
	})
}

func TestSecrets(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		r := addRepository(t, s, "octo", "hello")
		scopes := []Scope{{Owner: "Octo"}, {Repository: r.ID}, {Repository: r.ID, Environment: "Production"}, {Repository: r.ID, Environment: "a/environment/b"}}
		for i, scope := range scopes {
			c := Secret{Scope: scope, Name: "token", Value: []byte{byte(i), 0, 0xff}, SealedBy: "k1", Updated: noon,
				Access: Access{Visibility: "selected", Selected: []int64{1, 1 << 52}}}
			want(t, "created", must(s.PutSecret(ctx, c))(t), true)
			c.Name, c.Value, c.Updated = "TOKEN", []byte{byte(i)}, noon.Add(time.Hour)
			want(t, "created again", must(s.PutSecret(ctx, c))(t), false)
			got := must(s.Secret(ctx, scope, "Token"))(t)
			if c.Created = noon; got.Scope.String() != scope.String() {
				t.Errorf("scope %+v came back as %+v", scope, got.Scope)
			}
			got.Scope = scope
			want(t, "secret", got, c)
		}
		must(s.PutSecret(ctx, Secret{Scope: scopes[1], Name: "A_1", Value: []byte{1}, SealedBy: "k2", Updated: noon}))(t)
		var names []string
		for _, c := range must(s.Secrets(ctx, Scope{Repository: r.ID}))(t) {
			names = append(names, c.Name)
		}
		want(t, "names", names, []string{"A_1", "TOKEN"})

		for _, name := range []string{"", "1A", "A-B", "a b", "GITHUB_X", "github_x", "É", "A\x00", strings.Repeat("A", 256)} {
			_, err := s.PutSecret(ctx, Secret{Scope: scopes[1], Name: name, Value: []byte{1}})
			wantErr(t, fmt.Sprintf("name %q", name), err, ErrUnfit)
		}
		for _, scope := range []Scope{{}, {Owner: "octo", Repository: 1}, {Environment: "x"}} {
			if _, err := s.PutSecret(ctx, Secret{Scope: scope, Name: "A", Value: []byte{1}}); err == nil {
				t.Errorf("scope %+v was taken", scope)
			}
		}
		if _, err := s.PutSecret(ctx, Secret{Scope: scopes[1], Name: "A"}); err == nil {
			t.Error("a secret that is not sealed was taken")
		}
		_, err := s.PutSecret(ctx, Secret{Scope: Scope{Repository: 99}, Name: "A", Value: []byte{1}})
		wantErr(t, "a secret of nothing", err, ErrNotFound)
		if _, err := s.PutSecret(ctx, Secret{Scope: scopes[1], Name: "BIG", Value: make([]byte, maxValue+1)}); err == nil {
			t.Error("a secret that is too big was taken")
		}

		old := must(s.SecretsNotSealedBy(ctx, "k2", 100))(t)
		want(t, "secrets of the old key", len(old), 4)
		if err := s.ResealSecret(ctx, old[0], []byte("new"), "k2"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "sealing anew what has changed", s.ResealSecret(ctx, old[0], []byte("newer"), "k2"), ErrConflict)
		want(t, "secrets of the old key", len(must(s.SecretsNotSealedBy(ctx, "k2", 100))(t)), 3)
		again := must(s.Secret(ctx, old[0].Scope, old[0].Name))(t)
		if string(again.Value) != "new" || !again.Updated.Equal(old[0].Updated) {
			t.Errorf("sealed anew: %+v", again)
		}

		if err := s.DeleteSecret(ctx, scopes[1], "token"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "deleting what is deleted", s.DeleteSecret(ctx, scopes[1], "token"), ErrNotFound)
		_, err = s.Secret(ctx, scopes[1], "token")
		wantErr(t, "a deleted secret", err, ErrNotFound)
		must(s.Secret(ctx, scopes[2], "token"))(t)
	})
}

// TestSelectFor has many select repositories at once, while the value changes: nothing is lost.
func TestSelectFor(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx, scope := t.Context(), Scope{Owner: "octo"}
		secret := Secret{Scope: scope, Name: "S", Value: []byte{1}, SealedBy: "k1", Access: Access{Visibility: "selected"}, Updated: noon}
		must(s.PutSecret(ctx, secret))(t)
		if err := s.AddVariable(ctx, Variable{Scope: scope, Name: "V", Access: Access{Visibility: "selected"}, Updated: noon}); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for id := range int64(8) {
			add := func(a Access) ([]int64, error) { return append(slices.Clone(a.Selected), id), nil }
			all.Go(func() {
				if err := errors.Join(s.SelectForSecret(ctx, scope, "s", noon, add), s.SelectForVariable(ctx, scope, "v", noon, add)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, a := range []Access{must(s.Secret(ctx, scope, "S"))(t).Access, must(s.Variable(ctx, scope, "V"))(t).Access} {
			slices.Sort(a.Selected)
			want(t, "selected", a.Selected, []int64{0, 1, 2, 3, 4, 5, 6, 7})
		}
		// A value that is put while one selects is kept.
		err := s.SelectForSecret(ctx, scope, "S", noon, func(a Access) ([]int64, error) {
			if len(a.Selected) == 8 {
				secret.Value, secret.Selected = []byte{2}, []int64{7}
				must(s.PutSecret(ctx, secret))(t)
			}
			return append(slices.Clone(a.Selected), 9), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got := must(s.Secret(ctx, scope, "S"))(t)
		want(t, "selected", got.Selected, []int64{7, 9})
		want(t, "value", got.Value, []byte{2})
		wantErr(t, "none", s.SelectForSecret(ctx, scope, "none", noon, nil), ErrNotFound)
		wantErr(t, "what is refused", s.SelectForSecret(ctx, scope, "S", noon, func(Access) ([]int64, error) { return nil, ErrUnfit }), ErrUnfit)
	})
}

func TestVariables(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		scope := Scope{Repository: addRepository(t, s, "octo", "hello").ID}
		v := Variable{Scope: scope, Name: "a", Value: "é 'x'\n", Updated: noon, Access: Access{Selected: []int64{}}}
		if err := errors.Join(s.AddVariable(ctx, v), s.AddVariable(ctx, Variable{Scope: scope, Name: "B", Updated: noon})); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "a name twice", s.AddVariable(ctx, Variable{Scope: scope, Name: "A"}), ErrExists)
		wantErr(t, "a bad name", s.AddVariable(ctx, Variable{Scope: scope, Name: "github_A"}), ErrUnfit)
		wantErr(t, "a name that is taken", s.SaveVariable(ctx, "b", v), ErrExists)
		wantErr(t, "none", s.SaveVariable(ctx, "c", Variable{Scope: scope, Name: "d"}), ErrNotFound)
		if err := s.AddVariable(ctx, Variable{Scope: scope, Name: "N", Value: "\x00"}); err == nil {
			t.Error("a value with a NUL was taken")
		}
		v.Name, v.Value, v.Updated = "RENAMED", "", noon.Add(time.Hour)
		if err := s.SaveVariable(ctx, "A", v); err != nil {
			t.Fatal(err)
		}
		v.Created = noon
		want(t, "renamed", must(s.Variable(ctx, scope, "renamed"))(t), v)
		want(t, "variables", len(must(s.Variables(ctx, scope))(t)), 2)
		if err := s.DeleteVariable(ctx, scope, "renamed"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "deleting what is deleted", s.DeleteVariable(ctx, scope, "renamed"), ErrNotFound)
	})
}

func TestEnvironments(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		r := addRepository(t, s, "octo", "hello")
		edit := func(repository int64, name string, hours int, rules string) (Environment, bool, error) {
			return s.EditEnvironment(ctx, repository, name, noon.Add(time.Duration(hours)*time.Hour), func(e *Environment) error {
				e.Rules = json.RawMessage(rules)
				return nil
			})
		}
		e, created, err := edit(r.ID, "Production", 0, `{"wait_timer":30}`)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "created", created, true)
		again, created, err := edit(r.ID, "production", 1, `{}`)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "created again", created, false)
		want(t, "environment", again, Environment{ID: e.ID, Repository: r.ID, Name: "Production", Rules: json.RawMessage(`{}`), Created: noon, Updated: noon.Add(time.Hour)})
		want(t, "as it is stored", must(s.Environment(ctx, r.ID, "PRODUCTION"))(t), again)
		if _, _, err := edit(r.ID, "Beta", 0, ""); err != nil {
			t.Fatal(err)
		}

		// Many change and make it at once: nothing is lost.
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				_, _, err := s.EditEnvironment(ctx, r.ID, "counted", noon, func(e *Environment) error {
					var n int
					if len(e.Rules) > 0 {
						if err := json.Unmarshal(e.Rules, &n); err != nil {
							return err
						}
					}
					e.Rules = json.RawMessage(fmt.Sprint(n + 1))
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		want(t, "changes", string(must(s.Environment(ctx, r.ID, "counted"))(t).Rules), "8")
		if err := s.DeleteEnvironment(ctx, r.ID, "counted"); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range must(s.Environments(ctx, r.ID))(t) {
			names = append(names, e.Name)
		}
		want(t, "names", names, []string{"Beta", "Production"})
		_, _, err = edit(9, "x", 0, "")
		wantErr(t, "an environment of nothing", err, ErrNotFound)
		_, _, err = edit(r.ID, "x", 0, "{")
		wantErr(t, "rules that are no JSON", err, ErrUnfit)

		scope := Scope{Repository: r.ID, Environment: "production"}
		must(s.PutSecret(ctx, Secret{Scope: scope, Name: "A", Value: []byte{1}}))(t)
		if err := s.DeleteEnvironment(ctx, r.ID, "PRODUCTION"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "deleting what is deleted", s.DeleteEnvironment(ctx, r.ID, "Production"), ErrNotFound)
		want(t, "its secrets", len(must(s.Secrets(ctx, scope))(t)), 0)
	})
}

func TestWorkflowsKeepTheirNumbers(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		r, other := addRepository(t, s, "octo", "hello"), addRepository(t, s, "octo", "other")
		a := must(s.PutWorkflow(ctx, r.ID, "a.yml", "A", noon))(t)
		want(t, "new", a, Workflow{ID: 1, Repository: r.ID, Path: "a.yml", Name: "A", State: "active", Created: noon, Updated: noon})
		b := must(s.PutWorkflow(ctx, r.ID, "b.yml", "B", noon))(t)
		if err := s.SetWorkflowState(ctx, a.ID, "disabled_manually", noon); err != nil {
			t.Fatal(err)
		}
		later := noon.Add(time.Hour)
		a.Name, a.State, a.Updated = "A new name", "disabled_manually", later
		want(t, "renamed", must(s.PutWorkflow(ctx, r.ID, "a.yml", "A new name", later))(t), a)
		want(t, "the same", must(s.PutWorkflow(ctx, r.ID, "a.yml", "A new name", later.Add(time.Hour)))(t), a)
		want(t, "by number", must(s.Workflow(ctx, r.ID, a.ID))(t), a)
		_, err := s.Workflow(ctx, other.ID, a.ID)
		wantErr(t, "through another repository", err, ErrNotFound)
		_, err = s.PutWorkflow(ctx, 9, "a.yml", "A", noon)
		wantErr(t, "of nothing", err, ErrNotFound)
		want(t, "all", must(s.Workflows(ctx, r.ID))(t), []Workflow{a, b})
	})
}

func TestJobsKeepTheirNumbers(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		one, two := create(t, s, plan(t, twoCells, nil)), create(t, s, plan(t, twoCells, nil))
		jobs := []ci.JobID{"build", "test/1", ci.JobID(strings.Repeat("deep/", 1000))}
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { must(s.JobNumbers(ctx, one.ID, 1, jobs))(t) })
		}
		all.Wait()
		first := must(s.JobNumbers(ctx, one.ID, 1, jobs[:1]))(t)
		want(t, "numbers", first, map[ci.JobID]int64{jobs[0]: 1, jobs[1]: 2, jobs[2]: 3})
		want(t, "of another attempt", must(s.JobNumbers(ctx, one.ID, 2, jobs[:1]))(t), map[ci.JobID]int64{"build": 4})
		want(t, "of another run", must(s.JobNumbers(ctx, two.ID, 1, jobs[:1]))(t), map[ci.JobID]int64{"build": 5})
		want(t, "later", must(s.JobNumbers(ctx, one.ID, 1, jobs))(t), first)
		want(t, "by number", must(s.NumberedJob(ctx, 3))(t), NumberedJob{one.ID, 1, jobs[2]})
		_, err := s.NumberedJob(ctx, 6)
		wantErr(t, "a number that was not given", err, ErrNotFound)
		_, err = s.JobNumbers(ctx, 99, 1, jobs)
		wantErr(t, "jobs of no run", err, ErrNotFound)
	})
}

func TestSchedules(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		r, other := addRepository(t, s, "octo", "hello"), addRepository(t, s, "octo", "other")
		schedule := func(repository int64, workflow, cron string, hours int) Schedule {
			return Schedule{Repository: repository, Workflow: workflow, Cron: cron, Next: noon.Add(time.Duration(hours) * time.Hour)}
		}
		nightly, hourly := schedule(r.ID, "a.yml", "0 0 * * *", 12), schedule(r.ID, "a.yml", "0 * * * *", 1)
		far := schedule(other.ID, "a.yml", "0 0 * * *", 24)
		if err := errors.Join(s.SetSchedules(ctx, r.ID, []Schedule{nightly, hourly, hourly}), s.SetSchedules(ctx, other.ID, []Schedule{far})); err != nil {
			t.Fatal(err)
		}
		want(t, "all", must(s.Schedules(ctx, 10))(t), []Schedule{hourly, nightly, far})
		want(t, "the next", must(s.Schedules(ctx, 1))(t), []Schedule{hourly})

		var took atomic.Int64
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				switch err := s.Tick(ctx, hourly, hourly.Next.Add(time.Hour)); {
				case err == nil:
					took.Add(1)
				case !errors.Is(err, ErrConflict):
					t.Error(err)
				}
			})
		}
		all.Wait()
		want(t, "servers that took one tick", took.Load(), int64(1))

		newer := schedule(r.ID, "b.yml", "5 4 * * *", 3)
		if err := s.SetSchedules(ctx, r.ID, []Schedule{schedule(r.ID, "a.yml", "0 * * * *", 99), newer}); err != nil {
			t.Fatal(err)
		}
		hourly.Next = hourly.Next.Add(time.Hour)
		want(t, "after a push", must(s.Schedules(ctx, 10))(t), []Schedule{hourly, newer, far})
		wantErr(t, "a tick of what is gone", s.Tick(ctx, nightly, noon), ErrConflict)
		wantErr(t, "schedules of nothing", s.SetSchedules(ctx, 9, []Schedule{newer}), ErrNotFound)
	})
}

func TestServersBeat(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		for _, id := range []string{"b", "a", "b"} {
			if err := s.Beat(ctx, id, "http://"+id, nil); err != nil {
				t.Fatal(err)
			}
		}
		servers := must(s.Servers(ctx))(t)
		want(t, "servers", servers, []Server{{"a", "http://a", 1, nil}, {"b", "http://b", 2, nil}})
		if err := s.Beat(ctx, "a", "http://a2", []ci.LeaseID{"l1", "l2"}); err != nil {
			t.Fatal(err)
		}
		want(t, "removed one that beats", must(s.RemoveServer(ctx, servers[0]))(t), false)
		want(t, "removed one that does not", must(s.RemoveServer(ctx, servers[1]))(t), true)
		want(t, "removed it again", must(s.RemoveServer(ctx, servers[1]))(t), false)
		want(t, "servers", must(s.Servers(ctx))(t), []Server{{"a", "http://a2", 2, []ci.LeaseID{"l1", "l2"}}})
	})
}
