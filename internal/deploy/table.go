package deploy

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/proxy/series"
)

// Front is how the outside reaches a service of an environment: what is set of it, whichever release serves.
type Front struct {
	Repository, Environment, Service string

	Hosts  []string // as in proxy.Route; nothing is routed to one without
	Path   string
	Strip  bool
	Sticky proxy.Sticky // a release's affinity takes its place

	MaxBody         int64
	ResponseTimeout time.Duration
	GRPC            bool
}

// PoolName is the name of the pool of a release's instances of a service: in tables, metrics and logs.
func PoolName(release cd.ReleaseID, service string) string {
	return fmt.Sprintf("%d/%s", release, service)
}

// RouteName is the name of the route of a service: in tables, metrics and logs.
func RouteName(p *cd.Plan, service string) string {
	return p.Repository + "/" + p.Environment + "/" + service
}

// Table makes the proxy's table of releases and fronts: a route for each front, and one for the hosts that lead to a new
// revision alone. It is pure; the caller gives it its version.
//
// Only instances that are healthy and wanted are backends. If no revision that takes traffic has one, those that are ill
// are asked all the same: a bad answer is no worse than none. While a release that recreates has stopped what served and is not up,
// requests wait at the proxy, as long as it lets them: a short gap loses none.
//
// Where several fronts claim one host and path, one has it: see claim. A proxy refuses a table with two of them, and then
// nobody's releases would go on.
func Table(releases []*cd.Release, fronts []Front) proxy.Table {
	type place struct{ repository, environment, service string }
	shares := map[place]cd.Share{}
	had := map[place]bool{}     // there was a release before
	between := map[place]bool{} // one stops before the next starts, or the other way round
	byID := map[cd.ReleaseID]*cd.Release{}
	for _, r := range releases {
		byID[r.ID] = r
		for _, s := range r.Plan.Services {
			if s.Before != 0 {
				had[place{r.Plan.Repository, r.Plan.Environment, s.Name}] = true
				if recreating(r) {
					between[place{r.Plan.Repository, r.Plan.Environment, s.Name}] = true
				}
			}
		}
		for _, s := range r.Shares() {
			at := place{r.Plan.Repository, r.Plan.Environment, s.Service}
			if s.New >= shares[at].New { // the later release's counts
				shares[at] = s
			}
		}
	}
	var claims []claim
	for _, f := range fronts {
		at := place{f.Repository, f.Environment, f.Service}
		share := shares[at]
		c := claim{environment: f.Repository + "/" + f.Environment, fresh: !had[at]}
		if share.Weight > 0 || share.Old != 0 {
			c.takes = share.New
		}
		for _, c.Route = range f.routes(share, byID) {
			if between[at] && !slices.ContainsFunc(c.Pools, func(p proxy.Pool) bool { return len(p.Backends) > 0 }) {
				c.Paused = true
			}
			claims = append(claims, c)
		}
	}
	return proxy.Table{Routes: settled(claims)}
}

// recreating reports whether a release takes the place of another, or gives it back, and the two can not run at once.
func recreating(r *cd.Release) bool {
	return r.Plan.Strategy.Kind == cd.Recreate && !r.Removed && (r.Phase == cd.Launching || r.Phase == cd.Reverting)
}

// claim is a route with what says whether it has a host that others claim too: one that takes traffic before one that does
// not yet, of one environment that of the latest release - a service may have another name there - and else the first.
type claim struct {
	proxy.Route
	environment string
	takes       cd.ReleaseID // the release that takes its traffic, 0 for none
	fresh       bool         // nothing of it has served yet, unless takes is set
}

func (c claim) goesBefore(other claim) bool {
	if c.takes == 0 || other.takes == 0 {
		return c.takes != 0
	}
	return c.environment == other.environment && c.takes > other.takes
}

// settled are the routes, each with the hosts that are its own; those without any are left out. A service that has a path to
// itself for the first time has it once it takes traffic: until then who had all paths of the host has this one, too.
func settled(claims []claim) []proxy.Route {
	type at struct{ host, path string }
	holder, served := map[at]int{}, map[string]bool{}
	for i, c := range claims {
		for _, host := range c.Hosts {
			served[host] = served[host] || c.takes != 0
			if j, taken := holder[at{host, c.Path}]; !taken || c.goesBefore(claims[j]) {
				holder[at{host, c.Path}] = i
			}
		}
	}
	var routes []proxy.Route
	for i, c := range claims {
		own := slices.DeleteFunc(slices.Clone(c.Hosts), func(host string) bool {
			return holder[at{host, c.Path}] != i || c.takes == 0 && c.fresh && served[host]
		})
		if len(own) > 0 {
			c.Hosts = own
			routes = append(routes, c.Route)
		}
	}
	return routes
}

// routes are a front's own route and that of its test hosts.
func (f Front) routes(s cd.Share, releases map[cd.ReleaseID]*cd.Release) []proxy.Route {
	main := proxy.Route{
		Name: f.Repository + "/" + f.Environment + "/" + f.Service, Hosts: f.Hosts, Path: f.Path, Strip: f.Strip,
		Sticky: f.Sticky, MaxBody: f.MaxBody, ResponseTimeout: f.ResponseTimeout, GRPC: f.GRPC,
	}
	if s.New == 0 {
		return []proxy.Route{main} // nothing serves yet: 503
	}
	fresh := proxy.Pool{Name: PoolName(s.New, s.Service), Labels: f.labels(s.New, series.SideNew), Weight: s.Weight, Backends: backends(releases[s.New], s.Service, cd.Healthy)}
	main.Pools = []proxy.Pool{fresh}
	if s.Old != 0 {
		old := proxy.Pool{Name: PoolName(s.Old, s.Service), Labels: f.labels(s.Old, series.SideOld), Weight: 100 - s.Weight, Backends: backends(releases[s.Old], s.Service, cd.Healthy)}
		main.Pools = append(main.Pools, old)
	}
	fill(main.Pools, []*cd.Release{releases[s.New], releases[s.Old]}, s.Service)
	if a := s.Affinity; a != nil {
		main.Sticky = proxy.Sticky{Cookie: a.Cookie, MaxAge: a.MaxAge}
	}
	if len(fresh.Backends) > 0 {
		main.Rules = rules(s.Match, fresh.Name)
		if s.Mirrored {
			main.Mirror, main.MirrorPercent = fresh.Name, 100
			if s.MirrorWeight > 0 {
				main.MirrorPercent = float64(s.MirrorWeight)
			}
		}
	}
	if len(s.TestHosts) == 0 {
		return []proxy.Route{main}
	}
	test := main
	test.Name, test.Hosts, test.Pools = main.Name+"/test", s.TestHosts, []proxy.Pool{fresh}
	test.Pools[0].Weight = 100
	test.Rules, test.Mirror, test.MirrorPercent, test.Sticky = nil, "", 0, proxy.Sticky{}
	return []proxy.Route{main, test}
}

// labels tell a pool apart where its metrics are asked for.
func (f Front) labels(release cd.ReleaseID, side string) map[string]string {
	return map[string]string{
		"repository": f.Repository, "environment": f.Environment, "service": f.Service, "release": strconv.FormatInt(int64(release), 10), "side": side,
	}
}

// fill sees to it that traffic leads somewhere: where no pool that takes some has a backend they get those that are ill,
// and then one without any takes none if another can.
func fill(pools []proxy.Pool, of []*cd.Release, service string) {
	able := func(p proxy.Pool) bool { return p.Weight > 0 && len(p.Backends) > 0 }
	if !slices.ContainsFunc(pools, able) {
		for i := range pools {
			if pools[i].Weight > 0 {
				pools[i].Backends = backends(of[i], service, cd.Ill)
			}
		}
	}
	if !slices.ContainsFunc(pools, able) {
		return
	}
	for i := range pools {
		if len(pools[i].Backends) == 0 {
			pools[i].Weight = 0
		}
	}
}

// backends are the instances of a release that are in a state, wanted, and can be reached.
func backends(r *cd.Release, service string, state cd.State) []proxy.Backend {
	if r == nil {
		return nil
	}
	var list []proxy.Backend
	for _, p := range r.Parts {
		if p.Service != service {
			continue
		}
		for _, i := range p.Instances {
			if i.State == state && i.Addr != "" && i.Index < p.Want {
				list = append(list, proxy.Backend{Addr: i.Addr})
			}
		}
	}
	return list
}

// rules lead what matches to a pool.
func rules(matches []cd.Match, pool string) []proxy.Rule {
	var list []proxy.Rule
	for _, m := range matches {
		r := proxy.Rule{Headers: map[string]proxy.Matcher{}, Pool: pool}
		for name, value := range m.Headers {
			r.Headers[name] = proxy.Matcher(value)
		}
		list = append(list, r)
	}
	return list
}
