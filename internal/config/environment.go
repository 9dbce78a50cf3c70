package config

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"go.yaml.in/yaml/v4"

	"github.com/penstock-ci/penstock/internal/cd"
)

// Environment is one entry of `environments:`. Its strategy is given by Strategy, its services by Config.ServicesOf.
type Environment struct {
	Pos
	Name string
	// RunsOn are the labels of the machines that run it; empty is the server's own machine.
	RunsOn []string
	// Variables are told to all services, before what they are told for this environment alone. Secrets and Required add to
	// theirs.
	Variables         map[string]string
	Secrets, Required []string
	Branches          []string // globs of the branches that deploy by themselves; see Deploys
	Watch             cd.Watch

	strategy  strategy
	hosts     []hosts
	overrides []override
}

// hosts are those of one service.
type hosts struct {
	service string
	names   []string
}

// override is what an environment says of one service.
type override struct {
	service   string
	env       map[string]string
	instances int
	memory    int64
	cpus      float64
}

// targetHost is the machine of the server.
const targetHost = "host"

// Watching without a word about it: a release whose instances die again and again is taken back.
const (
	defaultWatch     = 5 * time.Minute
	defaultRestarts  = 3
	defaultMinSample = 20
	defaultLook      = 5 * time.Second
)

// Environment gives the environment of a name; as with GitHub's, case makes no difference.
func (c *Config) Environment(name string) (*Environment, bool) {
	for i := range c.Environments {
		if strings.EqualFold(c.Environments[i].Name, name) {
			return &c.Environments[i], true
		}
	}
	return nil, false
}

// ServicesOf gives all services as e has them, with its hosts, in the order of the file.
func (c *Config) ServicesOf(e *Environment) []Service {
	var all []Service
	for _, s := range c.Services {
		var over override
		for _, o := range e.overrides {
			if o.service == s.Name {
				over = o
			}
		}
		merged := s.merge(e, over)
		for _, h := range e.hosts {
			if h.service == s.Name {
				merged.Hosts = slices.Clone(h.names)
			}
		}
		all = append(all, merged)
	}
	return all
}

// Deploys says whether a push to the branch deploys to the environment by itself.
func (e *Environment) Deploys(branch string) bool {
	return slices.ContainsFunc(e.Branches, func(glob string) bool { return doublestar.MatchUnvalidated(glob, branch) })
}

var environmentName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$`)

// environments reads them; services are those of the file, which may stand below.
func (r *reader) environments(n *yaml.Node, services []Service) []Environment {
	var all []Environment
	taken := map[string]string{} // host and path, whose they are
	r.mapping(n, func(key, value *yaml.Node) {
		if !environmentName.MatchString(key.Value) {
			r.mistake(key, "'%s' is no name of an environment: write letters, digits, -, _ and ., at most 100", key.Value)
			return
		}
		all = append(all, r.environment(key, value, services, taken))
	})
	return all
}

func (r *reader) environment(key, n *yaml.Node, services []Service, taken map[string]string) Environment {
	e := Environment{
		Pos: place(key), Name: key.Value, strategy: strategy{Strategy: cd.Strategy{Kind: cd.Rolling, Rolling: &cd.RollingSet{Batch: 1}}},
		Watch: cd.Watch{For: defaultWatch, Restarts: defaultRestarts, MinSample: defaultMinSample, Interval: defaultLook},
	}
	at := r.section(n, []field{
		{"target", func(r *reader, n *yaml.Node) { e.RunsOn = r.target(n) }},
		{"hosts", func(r *reader, n *yaml.Node) { e.hosts = r.hosts(n, services) }},
		{"strategy", func(r *reader, n *yaml.Node) { e.strategy = r.strategy(n) }},
		{"variables", func(r *reader, n *yaml.Node) { e.Variables = r.variables(n) }},
		{"secrets", func(r *reader, n *yaml.Node) { e.Secrets = r.names(n) }},
		{"required", func(r *reader, n *yaml.Node) { e.Required = r.names(n) }},
		{"branch", func(r *reader, n *yaml.Node) { e.Branches = r.globs(n) }},
		{"watch", func(r *reader, n *yaml.Node) { r.watch(n, &e.Watch) }},
		{"services", func(r *reader, n *yaml.Node) { e.overrides = r.overrides(n, services) }},
	})
	r.disjoint(at["secrets"], e.Secrets, e.Variables)
	for _, o := range e.overrides {
		r.disjoint(at["secrets"], e.Secrets, o.env)
	}
	if e.strategy.Kind == cd.Canary && len(e.hosts) == 0 {
		r.note(at["strategy"], "the environment has no hosts: without traffic nothing is judged, and no release gets through")
	}
	for _, h := range e.hosts {
		i := slices.IndexFunc(services, func(s Service) bool { return s.Name == h.service })
		take := func(n *yaml.Node, names []string) {
			for _, name := range names {
				route := name + services[i].Path
				if whose := taken[route]; whose != "" {
					r.mistake(n, "%s leads to %s already: write another host, or a path for one of the services", route, whose)
				}
				taken[route] = fmt.Sprintf("'%s' of '%s'", h.service, e.Name)
			}
		}
		take(at["hosts"], h.names)
		if f := e.strategy.BlueGreen; f != nil {
			take(at["strategy"], f.TestHosts)
		}
	}
	return e
}

// target reads host, or the labels of other machines.
func (r *reader) target(n *yaml.Node) (labels []string) {
	if n.Kind == yaml.MappingNode {
		at := r.section(n, []field{{"runs-on", func(r *reader, n *yaml.Node) { labels = r.labels(n) }}})
		if at["runs-on"] == nil {
			r.mistake(n, "a target that is not %s says which machines it is: {runs-on: LABEL}", targetHost)
		}
		return labels
	}
	if text, ok := r.text(n); ok && text != targetHost {
		r.mistake(n, "'%s' is no target: write %s, the machine of the server, or {runs-on: LABEL}, machines with penstock runner --deploy%s", text, targetHost,
			didYouMean(text, []string{targetHost}))
	}
	return nil
}

// maxLabels bounds the labels of a target, as those of a runner.
const maxLabels = 100

// labels reads one or several labels of runners.
func (r *reader) labels(n *yaml.Node) (all []string) {
	entries := r.list(n)
	if len(entries) == 0 || len(entries) > maxLabels {
		r.mistake(n, "write one to %d labels of runners", maxLabels)
		return nil
	}
	for _, e := range entries {
		text, ok := r.text(e)
		switch {
		case !ok:
		case text == "" || len(text) > 256 || strings.Contains(text, ",") || strings.TrimSpace(text) != text:
			r.mistake(e, "'%.40s' is no label of a runner: labels have 1 to 256 bytes, no comma, and no blanks at their ends", text)
		default:
			all = append(all, text)
		}
	}
	return all
}

var hostName = regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// hosts reads a list, for the first service without a path and for all with one, or SERVICE: [host, ...].
func (r *reader) hosts(n *yaml.Node, services []Service) []hosts {
	var all []hosts
	if n.Kind != yaml.MappingNode {
		names := r.hostNames(n)
		first := true
		for _, s := range services {
			if s.Port == 0 {
				continue
			}
			if s.Path != "" || first {
				all = append(all, hosts{s.Name, names})
			}
			first = first && s.Path != ""
		}
		if len(names) > 0 && len(all) == 0 && len(services) > 0 {
			r.mistake(n, "these hosts lead to nothing: no service has a port")
		}
		return all
	}
	r.ofServices(n, services, func(name string, value *yaml.Node) {
		if i := slices.IndexFunc(services, func(s Service) bool { return s.Name == name }); services[i].Port == 0 {
			r.mistake(value, "'%s' has no port: no host can lead to it", name)
			return
		}
		all = append(all, hosts{name, r.hostNames(value)})
	})
	return all
}

func (r *reader) hostNames(n *yaml.Node) []string {
	var all []string
	for _, e := range r.list(n) {
		text, ok := r.text(e)
		switch {
		case !ok:
		case len(text) > 253 || !hostName.MatchString(text):
			r.mistake(e, "'%s' is no host: write one such as shop.example.com or *.example.com, lower case, without scheme, port or path", text)
		case slices.Contains(all, text):
			r.mistake(e, "'%s' is already defined", text)
		default:
			all = append(all, text)
		}
	}
	return all
}

// ofServices visits a mapping whose keys are services.
func (r *reader) ofServices(n *yaml.Node, services []Service, visit func(name string, value *yaml.Node)) {
	var known []string
	for _, s := range services {
		known = append(known, s.Name)
	}
	r.mapping(n, func(key, value *yaml.Node) {
		if !slices.Contains(known, key.Value) {
			r.mistake(key, "'%s' is no service of this file%s", key.Value, suggest(key.Value, known))
			return
		}
		visit(key.Value, value)
	})
}

func (r *reader) overrides(n *yaml.Node, services []Service) []override {
	var all []override
	r.ofServices(n, services, func(name string, value *yaml.Node) {
		o := override{service: name}
		r.section(value, []field{
			{"instances", func(r *reader, n *yaml.Node) { o.instances = r.instances(n) }},
			{"env", func(r *reader, n *yaml.Node) { o.env = r.variables(n) }},
			{"resources", func(r *reader, n *yaml.Node) { r.resources(n, &o.memory, &o.cpus) }},
		})
		all = append(all, o)
	})
	return all
}

// globs reads patterns of branches: * is within a segment, ** across.
func (r *reader) globs(n *yaml.Node) []string {
	var all []string
	for _, e := range r.list(n) {
		text, ok := r.text(e)
		if !ok {
			continue
		}
		// Of alternatives in braces, each of which doubles the time of a match, GitHub's patterns have none.
		if len(text) > 255 || !doublestar.ValidatePattern(text) || path.IsAbs(text) || strings.Contains(text, "{") {
			r.mistake(e, "'%.40s' is no pattern of branches: write one such as main or release/*", text)
			continue
		}
		all = append(all, text)
	}
	return all
}

// watch reads the window after promotion.
func (r *reader) watch(n *yaml.Node, w *cd.Watch) {
	r.section(n, []field{
		{"for", func(r *reader, n *yaml.Node) { w.For = r.duration(n, 0, 7*24*time.Hour) }},
		{"errors", func(r *reader, n *yaml.Node) { w.Errors = r.percent(n) }},
		{"latency", func(r *reader, n *yaml.Node) { w.Latency = r.duration(n, time.Millisecond, time.Hour) }},
		{"restarts", func(r *reader, n *yaml.Node) { w.Restarts = r.integer(n, "a number of restarts such as 3", 0, 10_000) }},
		{"min-sample", func(r *reader, n *yaml.Node) {
			w.MinSample = r.integer(n, "a number of requests such as 20", 1, 1_000_000_000)
		}},
	})
}
