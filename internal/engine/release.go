package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/store"
)

// ErrNothingToRemove says that nothing of an environment runs.
var ErrNothingToRemove = errors.New("nothing of it runs")

// ErrNothingToRestore says that there is no earlier release that could be gone back to.
var ErrNothingToRestore = errors.New("there is no earlier release to go back to")

// ErrNoMachine says that no machine is there that a release is to run on.
var ErrNoMachine = errors.New("there is no machine to run it on")

// ReleaseOptions are what Releases is told of its surroundings. The zero value works: releases without secrets.
type ReleaseOptions struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Name is what this server is called among those that share its store, which must differ: it carries the environments
	// that were first released to by it.
	Name string
	// Machines finds the machines that have all of some labels and are there, sorted; ErrNoMachine if none is. Nil: there are none.
	Machines func(ctx context.Context, labels []string) ([]string, error)
	// Keys gives the key ring that seals the secrets of releases. Nil: there are none.
	Keys func() *auth.Keyring
	// Log gets what Work can not tell anybody else; slog.Default if nil.
	Log *slog.Logger
}

// Releases is the durable shell round the cd machine, as Engine is round ci: the one door through which the state of a
// release changes. Each decision of cd and its records are one transaction; what is to be done next is derived from what
// is stored. It executes nothing: see Carrier.
//
// It may be used by any number of goroutines, of any number of servers that share a store.
type Releases struct {
	store *store.Store
	opt   ReleaseOptions

	mu    sync.Mutex
	force map[cd.ReleaseID]int64 // the versions that the carrier has acknowledged last
	clock struct {
		mu   sync.Mutex
		base time.Time
		held bool // a release is not done
	}
}

// NewReleases makes the shell round the releases of a store.
func NewReleases(st *store.Store, opt ReleaseOptions) *Releases {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	return &Releases{store: st, opt: opt}
}

// now is the time as it is stored. While a release that Work carries is not done it goes by the clock that only goes forward:
// cd holds each input against the deadlines, and a clock that is set would make them all pass at once, or not at all.
func (e *Releases) now() time.Time {
	now := e.opt.Now()
	e.clock.mu.Lock()
	defer e.clock.mu.Unlock()
	if !e.clock.held {
		e.clock.base = now
	}
	return e.clock.base.Round(0).Add(now.Sub(e.clock.base)).UTC()
}

// holdClock says whether a release is not done.
func (e *Releases) holdClock(hold bool) {
	e.clock.mu.Lock()
	defer e.clock.mu.Unlock()
	e.clock.held = hold
}

// Begin begins a release and gives its ID. Of plan it sets what only it knows: which release serves each service now, and
// with how many instances. Extra is stored with the release for whoever makes the table of it. Secrets are the values of
// the secrets of each service, by the names in its revision.
//
// Releases of one environment begin one after the other: those that are not done and share a service with the new one give
// way (cd.Replaced).
func (e *Releases) Begin(ctx context.Context, plan *cd.Plan, extra json.RawMessage, secrets map[string]map[string]string) (cd.ReleaseID, error) {
	err := fitting(plan)
	var kept []store.ReleaseSecret
	if err == nil {
		kept, err = e.seal(plan, secrets)
	}
	var on *cd.Plan
	if err == nil {
		on, err = e.placed(ctx, plan)
	}
	if err != nil {
		return 0, fmt.Errorf("begin a release of %s to %s: %w", plan.Repository, plan.Environment, err)
	}
	return e.begin(ctx, on, extra, func(*store.ReleaseTx) ([]store.ReleaseSecret, error) { return kept, nil })
}

// begin begins a release with the secrets that keep gives within the transaction.
func (e *Releases) begin(ctx context.Context, plan *cd.Plan, extra json.RawMessage, keep func(*store.ReleaseTx) ([]store.ReleaseSecret, error)) (cd.ReleaseID, error) {
	now := e.now()
	var begun cd.ReleaseID
	err := e.store.DecideReleases(ctx, now, func(tx *store.ReleaseTx) error {
		id, err := tx.NextRelease()
		if err != nil {
			return err
		}
		begun = id
		active, err := tx.Active(store.Place{Repository: plan.Repository, Environment: plan.Environment})
		if err != nil {
			return err
		}
		for _, r := range active {
			if !share(r.Plan, plan) {
				continue
			}
			if err := decide(tx, r, cd.Replaced{By: id}, now); err != nil && !errors.Is(err, cd.ErrStale) {
				return err
			}
		}
		r, events := cd.New(id, inPlace(plan, active), now)
		tx.Begin(r, events, extra, e.opt.Name)
		secrets, err := keep(tx)
		for _, c := range secrets {
			c.Release = id
			tx.Keep(c)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("begin a release of %s to %s: %w", plan.Repository, plan.Environment, err)
	}
	return begun, nil
}

// placed gives a plan with the machines that have its labels now: a release is one thing, whatever comes and goes while it runs.
func (e *Releases) placed(ctx context.Context, plan *cd.Plan) (*cd.Plan, error) {
	p := *plan
	p.Machines = nil
	if len(p.RunsOn) == 0 {
		return &p, nil
	}
	if e.opt.Machines == nil {
		return nil, ErrNoMachine
	}
	machines, err := e.opt.Machines(ctx, p.RunsOn)
	if err != nil {
		return nil, err
	}
	most := 1
	for _, s := range p.Services {
		most = max(most, s.Instances)
	}
	p.Machines = machines[:min(len(machines), most)] // more have nothing to do
	return &p, nil
}

// fitting says what a plan lacks to be a release at all.
func fitting(p *cd.Plan) error {
	if p.Repository == "" || p.Environment == "" || len(p.Services) == 0 {
		return errors.New("a release needs a repository, an environment and a service")
	}
	for i, s := range p.Services {
		if s.Name == "" || serviceOf(p, s.Name) != &p.Services[i] {
			return fmt.Errorf("service %d of the release is named %q: each needs a name of its own", i+1, s.Name)
		}
	}
	return nil
}

// share reports whether two plans have a service in common.
func share(a, b *cd.Plan) bool {
	return slices.ContainsFunc(a.Services, func(s cd.Service) bool { return serviceOf(b, s.Name) != nil })
}

func serviceOf(p *cd.Plan, name string) *cd.Service {
	if i := slices.IndexFunc(p.Services, func(s cd.Service) bool { return s.Name == name }); i >= 0 {
		return &p.Services[i]
	}
	return nil
}

// inPlace gives a plan with what it finds: the releases that serve, of those of its environment that are active, as they are
// once they have given way to it.
func inPlace(plan *cd.Plan, active []*cd.Release) *cd.Plan {
	p := *plan
	p.Services = slices.Clone(plan.Services)
	for i := range p.Services {
		s := &p.Services[i]
		s.Before, s.BeforeInstances = Serving(active, s.Name)
	}
	return &p
}

// Serving finds which of the releases of an environment, the oldest first, serves a service or will when those that give way have done so, and
// how many instances it has then. It is zero if none does.
func Serving(releases []*cd.Release, service string) (id cd.ReleaseID, instances int) {
	for _, r := range slices.Backward(releases) {
		s := serviceOf(r.Plan, service)
		if s == nil {
			continue
		}
		switch r.Phase {
		case cd.Watching, cd.Live:
			if want := wanted(r, service); want > 0 {
				id, instances = r.ID, want
			}
		case cd.Retired: // its instances are still to end, and nothing came in its place
			return 0, 0
		default:
			if r.Removed {
				return 0, 0
			}
			id, instances = s.Before, s.BeforeInstances
		}
		if id != 0 {
			return id, instances
		}
	}
	return 0, 0
}

func wanted(r *cd.Release, service string) int {
	for _, p := range r.Parts {
		if p.Service == service {
			return p.Want
		}
	}
	return 0
}

// Update gives an input to a release. When it returns nil the change is durable. The error wraps what Decide says
// (cd.ErrStale, cd.ErrRefused), store.ErrNotFound, or what kept the store from saving; then nothing was changed, except
// that after the end of ctx the change may still be made.
func (e *Releases) Update(ctx context.Context, id cd.ReleaseID, in cd.Input) error {
	now := e.now()
	err := e.store.DecideReleases(ctx, now, func(tx *store.ReleaseTx) error {
		r, err := tx.Release(id)
		if err != nil {
			return err
		}
		return decide(tx, r, in, now)
	})
	if err != nil {
		return fmt.Errorf("release %d: %w", id, err)
	}
	return nil
}

// decide gives an input to a release of a transaction.
func decide(tx *store.ReleaseTx, r *cd.Release, in cd.Input, now time.Time) error {
	from := r.Version
	events, err := r.Decide(in, now)
	if err != nil || len(events) == 0 {
		return err
	}
	for _, ev := range events {
		r.Apply(ev)
	}
	tx.Changed(r, from, events)
	return nil
}

// Remove has all that is released to an environment stopped (cd.Removed), in one transaction, and gives the newest release of
// which something ran. The error wraps ErrNothingToRemove if there is none.
func (e *Releases) Remove(ctx context.Context, p store.Place, by, reason string) (cd.ReleaseID, error) {
	now := e.now()
	var newest cd.ReleaseID
	err := e.store.DecideReleases(ctx, now, func(tx *store.ReleaseTx) error {
		active, err := tx.Active(p)
		if err == nil && len(active) == 0 {
			err = ErrNothingToRemove
		}
		if err != nil {
			return err
		}
		for _, r := range active {
			newest = r.ID
			if err := decide(tx, r, cd.Removed{By: by, Reason: reason}, now); err != nil && !errors.Is(err, cd.ErrStale) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("remove %s of %s: %w", p.Environment, p.Repository, err)
	}
	return newest, nil
}

// Restore is a wish to go back to an earlier release.
type Restore struct {
	Repository, Environment string
	Services                []string     // empty: all that the latest release that serves has
	To                      cd.ReleaseID // 0: the one that served before
	By, Reason              string
}

// Restore begins a release that brings back the revisions, secrets and extra of an earlier one of the same environment, as
// they were, on the machines that are there now. Without one that is named it is the newest that has served the services before
// what serves now, where going back twice goes back further; of an environment that was removed it is what served last. While a
// release of them is on its way that is cd.ErrRefused, for it can be taken back itself.
// The error wraps ErrNothingToRestore if there is none, or if its secrets are not kept any more.
func (e *Releases) Restore(ctx context.Context, w Restore) (cd.ReleaseID, error) {
	from, err := e.Restorable(ctx, w)
	if err != nil {
		return 0, err
	}
	plan := *from.Plan
	plan.By, plan.Reason, plan.Restores = w.By, w.Reason, from.ID
	plan.Gate, plan.Deployment, plan.Run = nil, 0, 0
	if len(w.Services) > 0 {
		plan.Services = slices.DeleteFunc(slices.Clone(plan.Services), func(s cd.Service) bool { return !slices.Contains(w.Services, s.Name) })
		plan.Whole = false
	}
	on, err := e.placed(ctx, &plan)
	if err != nil {
		return 0, fmt.Errorf("restore in %s of %s: %w", w.Environment, w.Repository, err)
	}
	return e.begin(ctx, on, from.Extra, func(tx *store.ReleaseTx) (kept []store.ReleaseSecret, err error) {
		for _, s := range plan.Services {
			if len(s.Revision.Secrets) == 0 {
				continue
			}
			c, ok, err := tx.Secret(from.ID, s.Name)
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, fmt.Errorf("%w: the secrets of %s as release %d had them are not kept any more, only those of the last %d releases that served are",
					ErrNothingToRestore, s.Name, from.ID, store.Restorable)
			}
			kept = append(kept, c)
		}
		return kept, nil
	})
}

// Restorable finds the release that Restore would bring back. Its errors are those of Restore.
func (e *Releases) Restorable(ctx context.Context, w Restore) (store.Release, error) {
	r, err := e.restorable(ctx, w)
	if err != nil {
		err = fmt.Errorf("restore in %s of %s: %w", w.Environment, w.Repository, err)
	}
	return r, err
}

func (e *Releases) restorable(ctx context.Context, w Restore) (store.Release, error) {
	if w.To != 0 {
		r, err := e.store.Release(ctx, w.To)
		if err == nil && !(strings.EqualFold(r.Plan.Repository, w.Repository) && strings.EqualFold(r.Plan.Environment, w.Environment)) {
			err = fmt.Errorf("release %d is not of this environment: %w", w.To, store.ErrNotFound)
		}
		if err == nil {
			err = hasServed(r, w.Services)
		}
		if err == nil && r.Plan.Restores != 0 { // what it brought back is older
			return e.store.Release(ctx, r.Plan.Restores)
		}
		return r, err
	}
	var below cd.ReleaseID // what serves now, or what that has brought back
	whole := false         // the environment may have had other services then
	for page := (store.ReleaseFilter{Repository: w.Repository, Environment: w.Environment, Limit: restorePage}); ; {
		list, err := e.store.Releases(ctx, page)
		if err != nil {
			return store.Release{}, err
		}
		for _, r := range list {
			page.Before = r.ID
			switch {
			case below == 0 && onItsWay(r.Phase) && (len(w.Services) == 0 || slices.ContainsFunc(w.Services, func(name string) bool { return serviceOf(r.Plan, name) != nil })):
				return r, fmt.Errorf("%w: release %d is on its way: take that one back, or say which release to restore", cd.ErrRefused, r.ID)
			case below == 0 && (r.Phase == cd.Live || r.Phase == cd.Watching) && hasServed(r, w.Services) == nil:
				if below = r.ID; r.Plan.Restores != 0 {
					below = r.Plan.Restores
				}
				if whole = len(w.Services) == 0 && r.Plan.Whole; len(w.Services) == 0 && !whole {
					w.Services = names(r.Plan)
				}
			case below == 0 && r.Phase == cd.Retired && r.Removed && hasServed(r, w.Services) == nil: // what served when all was removed
				w.To = r.ID
				return e.restorable(ctx, w)
			case below != 0 && r.ID < below && r.Plan.Restores == 0 && (r.Plan.Whole || !whole) && hasServed(r, w.Services) == nil:
				return r, nil
			}
		}
		if len(list) < restorePage {
			return store.Release{}, ErrNothingToRestore
		}
	}
}

// onItsWay reports whether a release is neither promoted nor taken back yet.
func onItsWay(p cd.Phase) bool {
	return !p.Over() && p != cd.Watching && p != cd.Live && p != cd.Reverting
}

// restorePage is how many releases are looked at at once.
const restorePage = 20

func names(p *cd.Plan) (names []string) {
	for _, s := range p.Services {
		names = append(names, s.Name)
	}
	return names
}

// hasServed says why a release can not be gone back to, nil if it can.
func hasServed(r store.Release, services []string) error {
	switch r.Phase {
	case cd.Retired, cd.Live, cd.Watching:
	default:
		return fmt.Errorf("%w: release %d is %s, and only what was kept can be: deploy its commit %.7s again", ErrNothingToRestore, r.ID, r.Phase, r.Plan.SHA)
	}
	for _, name := range services {
		if serviceOf(r.Plan, name) == nil {
			return fmt.Errorf("%w: release %d has no service %s", ErrNothingToRestore, r.ID, name)
		}
	}
	return nil
}

// Release gives a release as it is stored. The error wraps store.ErrNotFound if there is none.
func (e *Releases) Release(ctx context.Context, id cd.ReleaseID) (store.Release, error) {
	return e.store.Release(ctx, id)
}

// Active gives the releases of which something runs or is to be done, of all servers, the newest first.
func (e *Releases) Active(ctx context.Context) ([]store.Release, error) {
	return e.store.Releases(ctx, store.ReleaseFilter{Active: true, Limit: maxActive})
}

// maxActive bounds the releases that are active at a time.
const maxActive = 10_000

// History lists releases, the newest first.
func (e *Releases) History(ctx context.Context, f store.ReleaseFilter) ([]store.Release, error) {
	return e.store.Releases(ctx, f)
}

// Timeline gives at most limit events of a release with numbers above after, in order.
func (e *Releases) Timeline(ctx context.Context, id cd.ReleaseID, after int64, limit int) ([]store.ReleaseRecord, error) {
	return e.store.ReleaseEvents(ctx, id, after, limit)
}

// Tail gives the records of releases with numbers above after, and goes on with those that come, until ctx ends. After an error
// it ends.
func (e *Releases) Tail(ctx context.Context, after int64) iter.Seq2[store.ReleaseRecord, error] {
	return tail(ctx, after, e.store.ReleasesChanged, e.store.ReleaseRecords, func(r store.ReleaseRecord) int64 { return r.Seq })
}

// inForce notes that the carrier has acknowledged releases, and tells who waits for that.
func (e *Releases) inForce(active []Active) {
	force := make(map[cd.ReleaseID]int64, len(active))
	for _, r := range active {
		force[r.ID] = r.Version
	}
	e.mu.Lock()
	e.force = force
	e.mu.Unlock()
	e.store.WakeReleases()
}

// InForce reports whether the carrier has acknowledged what a release wants: that its traffic goes where it says. Of one that
// another server carries it is not known, and taken to be so.
func (e *Releases) InForce(r store.Release) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	version, here := e.force[r.ID]
	return !here || version >= r.Version
}

// Changed gives a channel that is closed when something of any release changes after the call: see store.Changed.
func (e *Releases) Changed() <-chan struct{} { return e.store.ReleasesChanged() }

// WaitFor waits until a release is as it should be, and gives it.
func (e *Releases) WaitFor(ctx context.Context, id cd.ReleaseID, is func(*cd.Release) bool) (store.Release, error) {
	for {
		news := e.store.ReleasesChanged()
		r, err := e.store.Release(ctx, id)
		if err != nil || is(r.Release) {
			return r, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return r, context.Cause(ctx)
		}
	}
}

// Carried says which server carries the releases of an environment: while it is not there, they wait.
type Carried struct {
	Server string
	There  bool
}

// Carried finds the server of an environment. The error wraps store.ErrNotFound if nothing was ever released there.
func (e *Releases) Carried(ctx context.Context, repository, environment string) (Carried, error) {
	if !e.store.Shared() {
		return Carried{Server: e.opt.Name, There: true}, nil
	}
	name, err := e.store.Carrier(ctx, store.Place{Repository: repository, Environment: environment})
	if err != nil {
		return Carried{}, err
	}
	servers, err := e.store.Servers(ctx)
	there := slices.ContainsFunc(servers, func(s store.Server) bool { return s.Name == name })
	return Carried{Server: name, There: there}, err
}

// Secrets gives the values of the secrets of a service as they were when the release began.
func (e *Releases) Secrets(ctx context.Context, id cd.ReleaseID, service string) (map[string]string, error) {
	c, err := e.store.ReleaseSecrets(ctx, id, service)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := e.store.Release(ctx, id)
	if err != nil {
		return nil, err
	}
	if e.opt.Keys == nil {
		return nil, fmt.Errorf("open the secrets of release %d: there is no key", id)
	}
	text, err := e.opt.Keys().Open(c.Value, secretScope(r.Plan), service)
	var exact map[string][]byte
	if err == nil {
		err = json.Unmarshal(text, &exact)
	}
	if err != nil {
		return nil, fmt.Errorf("open the secrets of %s of release %d: %w", service, id, err)
	}
	values := make(map[string]string, len(exact))
	for name, value := range exact {
		values[name] = string(value)
	}
	return values, nil
}

// secretScope is what the secrets of releases are sealed for. A release that restores another one has the same.
func secretScope(p *cd.Plan) string {
	return "releases/" + strings.ToLower(p.Repository) + "/environments/" + strings.ToLower(p.Environment)
}

// seal seals the secrets of the services of a plan, which are all that their revisions name, and no more.
func (e *Releases) seal(plan *cd.Plan, secrets map[string]map[string]string) (kept []store.ReleaseSecret, err error) {
	for service, values := range secrets {
		if s := serviceOf(plan, service); len(values) > 0 && (s == nil || len(s.Revision.Secrets) != len(values)) {
			return nil, fmt.Errorf("the secrets given for %s are not those of its revision", service)
		}
	}
	for _, s := range plan.Services {
		values := secrets[s.Name]
		for name := range s.Revision.Secrets {
			if _, ok := values[name]; !ok {
				return nil, fmt.Errorf("the secret %s of %s has no value", name, s.Name)
			}
		}
		if len(values) == 0 {
			continue
		}
		if e.opt.Keys == nil {
			return nil, fmt.Errorf("there is no key to seal the secrets of %s with", s.Name)
		}
		exact := make(map[string][]byte, len(values)) // a text in JSON has to be UTF-8
		for name, value := range values {
			exact[name] = []byte(value)
		}
		text, err := json.Marshal(exact)
		if err != nil {
			return nil, err
		}
		if len(text) > maxReleaseSecrets {
			return nil, fmt.Errorf("the secrets of %s take %d bytes, more than %d are not allowed", s.Name, len(text), maxReleaseSecrets)
		}
		keys := e.opt.Keys()
		kept = append(kept, store.ReleaseSecret{Service: s.Name, Value: keys.Seal(text, secretScope(plan), s.Name), SealedBy: keys.Current()})
	}
	return kept, nil
}

// maxReleaseSecrets bounds the secrets of one service, bytes: those of a hundred that are as large as may be.
const maxReleaseSecrets = 8 << 20

// ResealReleases seals the secrets of releases anew that other keys than the one that seals now have sealed, and says how
// many they were.
func ResealReleases(ctx context.Context, st *store.Store, keys *auth.Keyring) (n int, err error) {
	const atOnce = 100
	for {
		old, err := st.ReleaseSecretsNotSealedBy(ctx, keys.Current(), atOnce)
		if err != nil {
			return n, err
		}
		for _, c := range old {
			r, err := st.Release(ctx, c.Release)
			if err != nil {
				return n, err
			}
			value, err := keys.Reseal(c.Value, secretScope(r.Plan), c.Service)
			if err != nil {
				return n, fmt.Errorf("the secrets of %s of release %d: %w", c.Service, c.Release, err)
			}
			// A conflict: they were sealed, or forgotten, meanwhile.
			if err := st.ResealReleaseSecret(ctx, c, value, keys.Current()); err != nil && !errors.Is(err, store.ErrConflict) {
				return n, err
			}
			n++
		}
		if len(old) < atOnce {
			return n, nil
		}
	}
}
