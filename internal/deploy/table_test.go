package deploy

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/proxy"
)

var update = flag.Bool("update", false, "write what is wanted anew")

// tableCase is testdata/table/NAME.json: releases and fronts, and the table that they make.
type tableCase struct {
	About    string        `json:"about"`
	Releases []*cd.Release `json:"releases"`
	Fronts   []Front       `json:"fronts"`
	Want     proxy.Table   `json:"want"`
}

func TestTable(t *testing.T) {
	files, err := filepath.Glob("testdata/table/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var c tableCase
			if err := readJSON(file, &c); err != nil {
				t.Fatal(err)
			}
			got := Table(c.Releases, c.Fronts)
			if *update {
				c.Want = got
				text, err := json.MarshalIndent(c, "", "  ")
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := indented(t, got), indented(t, c.Want); got != want {
				t.Errorf("%s: got %s\nwant %s", c.About, got, want)
			}
		})
	}
}

func indented(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// twoReleases are one that serves and one that takes its place, in a phase.
func twoReleases(phase cd.Phase, weight int, kind cd.Kind) (old, fresh *cd.Release) {
	instance := func(i int, addr string) cd.Instance { return cd.Instance{Index: i, State: cd.Healthy, Addr: addr} }
	plan := func(before cd.ReleaseID) *cd.Plan {
		return &cd.Plan{
			Repository: "acme/shop", Environment: "production", Strategy: cd.Strategy{Kind: kind},
			Services: []cd.Service{{Name: "web", Before: before, BeforeInstances: 2, Instances: 2}},
		}
	}
	old = &cd.Release{ID: 1, Plan: plan(0), Phase: cd.Live, Weight: 100, Parts: []cd.Part{{Service: "web", Want: 2, Instances: []cd.Instance{instance(0, "unix:/i/a"), instance(1, "unix:/i/b")}}}}
	fresh = &cd.Release{ID: 2, Plan: plan(1), Phase: phase, Weight: weight, Parts: []cd.Part{{
		Service: "web", Want: 2, Up: 2, Before: cd.Scale{Instances: 2, Running: 2, Told: true}, Instances: []cd.Instance{instance(0, "unix:/i/c"), instance(1, "unix:/i/d")},
	}}}
	return old, fresh
}

var shopFront = Front{Repository: "acme/shop", Environment: "production", Service: "web", Hosts: []string{"shop.example.com"}}

// TestTableWithoutHosts: to what has no hosts nothing is routed, from any host.
func TestTableWithoutHosts(t *testing.T) {
	old, fresh := twoReleases(cd.Shifting, 10, cd.Canary)
	f := shopFront
	f.Hosts = nil
	if table := Table([]*cd.Release{old, fresh}, []Front{f}); len(table.Routes) != 0 {
		t.Errorf("routes %+v", table.Routes)
	}
}

// TestTableNeverLeadsNowhere changes the instances of a rollout in all ways: as long as one of a pool that takes traffic is
// healthy, or else ill, the route leads to one, and never to what is not wanted or can not be reached.
func TestTableNeverLeadsNowhere(t *testing.T) {
	states := []cd.State{cd.Starting, cd.Healthy, cd.Ill, cd.Exited}
	for _, weight := range []int{0, 10, 100} {
		for n := range 4 * 4 * 4 * 4 {
			old, fresh := twoReleases(cd.Shifting, weight, cd.Canary)
			state := map[string]cd.State{}
			for i := range 4 {
				r := []*cd.Release{old, fresh}[i/2]
				in := &r.Parts[0].Instances[i%2]
				in.State = states[n>>(2*i)&3]
				state[in.Addr] = in.State
			}
			table := Table([]*cd.Release{fresh, old}, []Front{shopFront})
			best, takes := map[cd.State]bool{}, fresh.Shares()[0].Weight
			for _, p := range table.Routes[0].Pools {
				for _, b := range p.Backends {
					if s := state[b.Addr]; s != cd.Healthy && s != cd.Ill {
						t.Fatalf("weight %d, %v: leads to one that is %s", weight, state, s)
					}
					best[state[b.Addr]] = best[state[b.Addr]] || p.Weight > 0
				}
			}
			able := map[cd.State]bool{}
			for i, r := range []*cd.Release{old, fresh} {
				for _, in := range r.Parts[0].Instances {
					able[in.State] = able[in.State] || []int{100 - takes, takes}[i] > 0
				}
			}
			for _, p := range table.Routes[0].Pools {
				if p.Weight > 0 && len(p.Backends) == 0 && (able[cd.Healthy] || able[cd.Ill]) {
					t.Fatalf("weight %d, %v: a part of the traffic leads nowhere: %s", weight, state, indented(t, table))
				}
			}
			if best[cd.Healthy] != able[cd.Healthy] || best[cd.Ill] != (able[cd.Ill] && !able[cd.Healthy]) {
				t.Fatalf("weight %d, %v: %s", weight, state, indented(t, table))
			}
		}
	}
}

func TestTableSettings(t *testing.T) {
	old, fresh := twoReleases(cd.Shifting, 10, cd.Canary)
	f := shopFront
	f.Path, f.Strip, f.MaxBody, f.ResponseTimeout, f.GRPC = "/api", true, 1<<20, time.Minute, true
	f.Sticky = proxy.Sticky{Header: "x-user"}
	got := Table([]*cd.Release{old, fresh}, []Front{f}).Routes[0]
	got.Pools = nil
	want := proxy.Route{
		Name: "acme/shop/production/web", Hosts: f.Hosts, Path: "/api", Strip: true, MaxBody: 1 << 20,
		ResponseTimeout: time.Minute, GRPC: true, Sticky: proxy.Sticky{Header: "x-user"},
	}
	if indented(t, got) != indented(t, want) {
		t.Errorf("got %s\nwant %s", indented(t, got), indented(t, want))
	}
	before := indented(t, []*cd.Release{old, fresh})
	Table([]*cd.Release{old, fresh}, []Front{f})
	if after := indented(t, []*cd.Release{old, fresh}); after != before {
		t.Errorf("it changes what it is given: %s\nwas %s", after, before)
	}
}

// TestTableDisputes has a host and a path lead to one place, whoever claims them.
func TestTableDisputes(t *testing.T) {
	release := func(id cd.ReleaseID, repository, service string, phase cd.Phase) *cd.Release {
		plan := &cd.Plan{Repository: repository, Environment: "production", Services: []cd.Service{{Name: service, Instances: 1}}}
		return &cd.Release{ID: id, Plan: plan, Phase: phase, Parts: []cd.Part{{Service: service, Want: 1, Instances: []cd.Instance{{State: cd.Healthy, Addr: "unix:/i/" + service}}}}}
	}
	again := func(r *cd.Release) *cd.Release {
		r.Plan.Services[0].Before = 1
		return r
	}
	front := func(repository, service string, hosts ...string) Front {
		return Front{Repository: repository, Environment: "production", Service: service, Hosts: hosts}
	}
	shop, fronts := release(1, "acme/shop", "web", cd.Live), []Front{front("acme/shop", "web", "a.test", "b.test")}
	for name, c := range map[string]struct {
		release *cd.Release
		front   Front
		want    map[string]string
	}{
		"no hosts are not all hosts":             {release(2, "acme/shop", "worker", cd.Live), front("acme/shop", "worker"), map[string]string{"a.test": "web", "b.test": "web"}},
		"renamed, and starting":                  {release(2, "acme/shop", "site", cd.Launching), front("acme/shop", "site", "a.test"), map[string]string{"a.test": "web", "b.test": "web"}},
		"renamed, and ready to take traffic":     {release(2, "acme/shop", "site", cd.Ready), front("acme/shop", "site", "a.test"), map[string]string{"a.test": "web", "b.test": "web"}},
		"renamed":                                {release(2, "acme/shop", "site", cd.Live), front("acme/shop", "site", "a.test"), map[string]string{"a.test": "site", "b.test": "web"}},
		"a path of its own, and starting":        {release(2, "acme/shop", "api", cd.Launching), Front{Repository: "acme/shop", Environment: "production", Service: "api", Hosts: []string{"a.test", "c.test"}, Path: "/api"}, map[string]string{"a.test": "web", "b.test": "web", "c.test/api": "api"}},
		"a path of its own, started anew":        {again(release(2, "acme/shop", "api", cd.Launching)), Front{Repository: "acme/shop", Environment: "production", Service: "api", Hosts: []string{"a.test"}, Path: "/api"}, map[string]string{"a.test": "web", "b.test": "web", "a.test/api": "api"}},
		"of another repository":                  {release(2, "acme/thief", "site", cd.Live), front("acme/thief", "site", "a.test", "c.test"), map[string]string{"a.test": "web", "b.test": "web", "c.test": "site"}},
		"of another repository, all of its own":  {release(2, "acme/thief", "site", cd.Live), front("acme/thief", "site", "b.test"), map[string]string{"a.test": "web", "b.test": "web"}},
		"of another repository, by another path": {release(2, "acme/thief", "site", cd.Live), Front{Repository: "acme/thief", Environment: "production", Service: "site", Hosts: []string{"a.test"}, Path: "/x"}, map[string]string{"a.test": "web", "b.test": "web", "a.test/x": "site"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]string{}
			for _, r := range Table([]*cd.Release{shop, c.release}, append(fronts, c.front)).Routes {
				for _, host := range r.Hosts {
					got[host+r.Path] += r.Name[strings.LastIndex(r.Name, "/")+1:]
				}
				if len(r.Hosts) == 0 {
					t.Errorf("%s has all hosts", r.Name)
				}
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestTableRecreates holds that requests wait while one release that recreates has stopped another, on the way there and back,
// and at no other time.
func TestTableRecreates(t *testing.T) {
	for _, c := range []struct {
		about      string
		kind       cd.Kind
		phase      cd.Phase
		old, fresh cd.State // Stopped is gone
		paused     bool
	}{
		{"the old one still runs", cd.Recreate, cd.Launching, cd.Healthy, cd.Stopped, false},
		{"the old one has stopped", cd.Recreate, cd.Launching, cd.Stopped, cd.Stopped, true},
		{"the new one starts", cd.Recreate, cd.Launching, cd.Stopped, cd.Starting, true},
		{"the new one serves", cd.Recreate, cd.Watching, cd.Stopped, cd.Healthy, false},
		{"the new one is being stopped", cd.Recreate, cd.Reverting, cd.Stopped, cd.Healthy, true},
		{"the old one starts again", cd.Recreate, cd.Reverting, cd.Starting, cd.Stopped, true},
		{"the old one serves again", cd.Recreate, cd.Reverting, cd.Healthy, cd.Stopped, false},
		{"it is over", cd.Recreate, cd.Failed, cd.Starting, cd.Stopped, false},
		{"the other strategies have no gap", cd.Rolling, cd.Launching, cd.Stopped, cd.Starting, false},
	} {
		old, fresh := twoReleases(c.phase, 0, c.kind)
		if c.phase == cd.Watching {
			fresh.Weight = 100
		}
		for r, state := range map[*cd.Release]cd.State{old: c.old, fresh: c.fresh} {
			p := &r.Parts[0]
			if p.Instances = p.Instances[:1]; state == cd.Stopped {
				p.Instances, p.Want = nil, 0
			} else {
				p.Instances[0].State = state
			}
		}
		if c.old == cd.Stopped {
			old.Phase, fresh.Parts[0].Before = cd.Retired, cd.Scale{Told: true}
		}
		table := Table([]*cd.Release{old, fresh}, []Front{shopFront})
		if len(table.Routes) != 1 || table.Routes[0].Paused != c.paused {
			t.Errorf("%s: %+v, want paused %v", c.about, table.Routes, c.paused)
		}
		fresh.Removed = true
		if table := Table([]*cd.Release{old, fresh}, []Front{shopFront}); table.Routes[0].Paused {
			t.Errorf("%s: removed, and requests wait for it", c.about)
		}
	}
}
