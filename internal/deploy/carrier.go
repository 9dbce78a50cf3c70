package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/proxy/daemon"
	"github.com/penstock-ci/penstock/internal/proxy/series"
)

// maxSaidOfHook is how much of a hook's output is kept with its result, bytes: the latest.
const maxSaidOfHook = 4 << 10

// Carrier carries releases out: their instances on a target, their traffic at a proxy, what they ask by whoever knows it.
type Carrier struct {
	Target Target
	// Machines are where machines connect that are of Target; nil where none are.
	Machines *Fleet
	// Proxy is nil where nothing is routed: then releases are judged by the health of their instances alone.
	Proxy   *daemon.Client
	Outside Outside
	Log     *slog.Logger

	mu      sync.Mutex // of Carry
	version int64      // of the table in force
}

// Carried is a release with how the outside reaches its services.
type Carried struct {
	*cd.Release
	Fronts []Front
}

// Carry brings about what all active releases, the oldest first, want: first the table, so that nothing is stopped that still
// gets requests, then the instances. It does not wait for these.
func (c *Carrier) Carry(ctx context.Context, active []Carried) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.route(ctx, active); err != nil {
		return err
	}
	var wanted []Wanted
	for _, r := range active {
		for i, p := range r.Parts {
			if p.Want > 0 || len(p.Instances) > 0 {
				w := wantedOf(r.Release, &r.Plan.Services[i], p.Want)
				w.Known = p.Instances
				w.Revive = r.Phase == cd.Live
				wanted = append(wanted, w)
			}
		}
	}
	c.Target.Ensure(wanted)
	return nil
}

func wantedOf(r *cd.Release, s *cd.Service, instances int) Wanted {
	return Wanted{
		Release: r.ID, Service: s.Name, Revision: s.Revision, Instances: instances, Health: s.Health, Repository: r.Plan.Repository, Environment: r.Plan.Environment,
		Machines: r.Plan.Machines,
	}
}

// route puts the table of the releases in force.
func (c *Carrier) route(ctx context.Context, active []Carried) error {
	if c.Proxy == nil {
		return nil
	}
	type place struct{ repository, environment, service string }
	var releases []*cd.Release
	var order []place
	fronts := map[place]Front{}
	for _, r := range active {
		releases = append(releases, r.Release)
		for _, f := range r.Fronts {
			at := place{f.Repository, f.Environment, f.Service}
			if _, known := fronts[at]; !known {
				order = append(order, at)
			}
			// The newest counts once it takes traffic: its hosts are its revision's.
			if len(r.Shares()) > 0 || fronts[at].Service == "" {
				fronts[at] = f
			}
		}
	}
	all := make([]Front, 0, len(order))
	for _, at := range order {
		all = append(all, fronts[at])
	}
	if c.version == 0 {
		status, err := c.Proxy.Status(ctx)
		if err != nil {
			return fmt.Errorf("ask the proxy: %w", err)
		}
		c.version = status.Table
	}
	table := Table(releases, all)
	table.Version = c.version + 1
	if err := c.Proxy.Set(ctx, table); err != nil {
		c.version = 0 // whether it is in force is not known
		return fmt.Errorf("set the proxy's table: %w", err)
	}
	c.version = table.Version
	return nil
}

// Do does a task of a release.
func (c *Carrier) Do(ctx context.Context, r *cd.Release, t cd.Task) (cd.Done, error) {
	done := cd.Done{Task: t.ID}
	var err error
	switch t.Kind {
	case cd.TaskHook:
		err = c.hook(ctx, r, t, &done)
	case cd.TaskWebhook:
		done.OK, done.Message, err = c.Outside.Webhook(ctx, t.Webhook, t.Payload)
	case cd.TaskQuery:
		err = c.query(ctx, r, t, &done)
	case cd.TaskSample:
		err = c.sample(ctx, r, t, &done)
	default:
		err = fmt.Errorf("nobody here does a %s", t.Kind)
	}
	if ctx.Err() != nil {
		return done, context.Cause(ctx)
	}
	if err != nil {
		done.Error = err.Error()
	}
	return done, nil
}

func (c *Carrier) hook(ctx context.Context, r *cd.Release, t cd.Task, done *cd.Done) error {
	s := service(r.Plan, t.Service)
	if s == nil {
		return fmt.Errorf("there is no service %s", t.Service)
	}
	if s.HookTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.HookTimeout, fmt.Errorf("it took longer than %s", s.HookTimeout))
		defer cancel()
	}
	out := &lastBytes{max: maxSaidOfHook}
	err := c.Target.Run(ctx, wantedOf(r, s, 1), s.Hook, out)
	done.OK, done.Message = err == nil, strings.TrimSpace(out.String())
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
		done.Message = strings.TrimSpace(done.Message + "\n" + context.Cause(ctx).Error())
	default:
		done.Message = strings.TrimSpace(done.Message + "\n" + err.Error())
	}
	return nil
}

func service(p *cd.Plan, name string) *cd.Service {
	for i := range p.Services {
		if p.Services[i].Name == name {
			return &p.Services[i]
		}
	}
	return nil
}

// lastBytes keeps the end of what is written.
type lastBytes struct {
	max  int
	text []byte
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.text = append(l.text, p...)
	if over := len(l.text) - l.max; over > 0 {
		l.text = append(l.text[:0], l.text[over:]...)
	}
	return len(p), nil
}

func (l *lastBytes) String() string { return strings.ToValidUTF8(string(l.text), "\uFFFD") }

// errNoProxy is why there are no metrics.
var errNoProxy = errors.New("the server has no proxy that could measure traffic: serve --proxy ADDR")

// query asks a metric of its source: of the new revision, as Flagger does.
func (c *Carrier) query(ctx context.Context, r *cd.Release, t cd.Task, done *cd.Done) error {
	m := t.Metric
	if m.Query != "" {
		var err error
		names := config.Names{
			Name: t.Service, Target: t.Service, Service: t.Service, Ingress: t.Service, Route: t.Service, Namespace: r.Plan.Environment,
			Interval: m.Interval, Variables: m.Variables,
		}
		if done.Query, err = config.RenderQuery(m.Query, names); err != nil {
			return err
		}
		if m.Server != "" {
			done.Value, err = c.Outside.Prometheus(ctx, m.Server, done.Query)
			return err
		}
	}
	if c.Proxy == nil {
		return errNoProxy
	}
	if m.Query != "" {
		result, err := c.Proxy.Query(ctx, done.Query, time.Now(), series.Scope{Repository: r.Plan.Repository, Environment: r.Plan.Environment})
		if err != nil {
			return err
		}
		value, err := result.Number()
		if errors.Is(err, series.ErrNoValues) {
			return nil
		}
		done.Value = &value
		return err
	}
	interval := m.Interval
	if interval <= 0 {
		interval = time.Minute
	}
	of := series.Target{
		Scope: series.Scope{Repository: r.Plan.Repository, Environment: r.Plan.Environment}, Service: t.Service, Side: series.SideNew,
	}
	var value float64
	var err error
	switch m.Name {
	case "request-success-rate":
		value, done.Query, err = c.Proxy.SuccessRate(ctx, of, interval, time.Now())
	case "request-duration":
		var p99 time.Duration
		p99, done.Query, err = c.Proxy.Duration(ctx, of, interval, time.Now())
		value = float64(p99.Milliseconds())
	default:
		return fmt.Errorf("there is no metric %q", m.Name)
	}
	if errors.Is(err, series.ErrNoValues) {
		return nil
	}
	done.Value = &value
	return err
}

// sample measures both sides since a time, until now.
func (c *Carrier) sample(ctx context.Context, r *cd.Release, t cd.Task, done *cd.Done) error {
	if c.Proxy == nil {
		return errNoProxy
	}
	var pools []series.Pool
	for _, s := range r.Plan.Services {
		route := RouteName(r.Plan, s.Name)
		// Of a release that is not there nothing is found.
		pools = append(pools, series.Pool{Route: route, Pool: PoolName(r.ID, s.Name)}, series.Pool{Route: route, Pool: PoolName(s.Before, s.Name)})
	}
	to, counts, err := c.Proxy.Sample(ctx, t.From, pools...)
	if err != nil {
		return err
	}
	done.Samples = map[string]cd.Sample{}
	for i, s := range r.Plan.Services {
		done.Samples[s.Name] = cd.Sample{From: t.From, To: to, New: traffics(counts[2*i]), Old: traffics(counts[2*i+1])}
	}
	return nil
}

func traffics(c series.Counts) cd.Traffics {
	return cd.Traffics{Requests: c.Requests, Errors: c.Errors, Latency: c.Latency, Bounds: proxy.LatencyBounds[:]}
}

// Logs writes what instances of services of a release have written: of one if index is not negative, each line behind who wrote
// it if there are several.
func (c *Carrier) Logs(ctx context.Context, r *cd.Release, services []string, index, lines int, follow bool, w io.Writer) error {
	type source struct {
		service string
		index   int
	}
	var from []source
	for i, p := range r.Parts {
		if len(services) > 0 && !slices.Contains(services, p.Service) {
			continue
		}
		for n := range max(p.Want, r.Plan.Services[i].Instances) {
			if index < 0 || n == index {
				from = append(from, source{p.Service, n})
			}
		}
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for _, s := range from {
		out := io.Writer(&prefixed{mu: &mu, w: w})
		if len(from) > 1 {
			out = &prefixed{mu: &mu, w: w, prefix: fmt.Sprintf("%s/%d | ", s.service, s.index)}
		}
		one := func() {
			if err := c.Target.Logs(ctx, Wanted{Release: r.ID, Service: s.service, Machines: r.Plan.Machines}, s.index, lines, follow, out); err != nil && ctx.Err() == nil {
				mu.Lock()
				failed = errors.Join(failed, fmt.Errorf("%s/%d: %w", s.service, s.index, err))
				mu.Unlock()
			}
		}
		if follow {
			all.Go(one)
		} else {
			one()
		}
	}
	all.Wait()
	return failed
}

// prefixed writes whole lines behind a prefix, one writer at a time.
type prefixed struct {
	mu     *sync.Mutex
	w      io.Writer
	prefix string
	part   []byte
}

// maxLine bounds what is kept of a line that has not ended.
const maxLine = 64 << 10

func (p *prefixed) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.prefix == "" {
		return p.w.Write(text)
	}
	p.part = append(p.part, text...)
	for {
		at := strings.IndexByte(string(p.part), '\n')
		if at < 0 && len(p.part) < maxLine {
			return len(text), nil
		}
		if at < 0 {
			at = len(p.part) - 1
		}
		if _, err := fmt.Fprintf(p.w, "%s%s", p.prefix, p.part[:at+1]); err != nil {
			return 0, err
		}
		p.part = p.part[at+1:]
	}
}

// Charts gives what the proxy measured of a service of an environment, by pool.
func (c *Carrier) Charts(ctx context.Context, p *cd.Plan, service string, from, to time.Time, step time.Duration) ([]series.Chart, error) {
	if c.Proxy == nil {
		return nil, errNoProxy
	}
	return c.Proxy.Range(ctx, RouteName(p, service), from, to, step)
}
