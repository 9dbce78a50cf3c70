package config

import (
	"errors"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/penstock-ci/penstock/internal/cd"
)

// strategy is how an environment is released to, as far as penstock.yaml itself says it.
type strategy struct {
	cd.Strategy
	path      string
	manifest  []namedFile // a Flagger manifest that says all; then Analysis is nil
	templates []namedFile // of templated
	templated []templated
}

// namedFile is one that penstock.yaml names: slash-separated, within the repository.
type namedFile struct {
	Pos
	name string
}

// blue-green without a word about it: the old fleet is kept as long as in the CodeDeploy block of most guides.
const (
	defaultTermination = 5 * time.Minute
	mostTermination    = 2880 * time.Minute
	mostReadyWait      = 120 * time.Hour // between the start of the new fleet and traffic, of CodeDeploy
)

// Strategy gives how e is released to, with all defaults filled in, and notes of what was accepted and has no effect. read
// gives a file of the repository; it is called for Flagger's manifests alone. The error is Errors.
func (e *Environment) Strategy(read func(name string) ([]byte, error)) (cd.Strategy, []Finding, error) {
	s := e.strategy.Strategy
	r := &reader{path: e.strategy.path}
	var documents []File
	for _, f := range slices.Concat(e.strategy.manifest, e.strategy.templates) {
		data, err := read(f.name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			r.at(f.Pos, "there is no file '%s' in the repository", f.name)
		case err != nil:
			r.at(f.Pos, "'%s' can not be read: %v", f.name, err)
		}
		documents = append(documents, File{f.name, data})
	}
	switch {
	case len(r.found) > 0:
	case len(e.strategy.manifest) > 0:
		m, err := ParseManifest(documents...)
		if err != nil {
			return cd.Strategy{}, nil, err
		}
		s.Analysis = &m.Analysis
		return s, m.Notes, nil
	case s.Analysis != nil:
		a := *s.Analysis
		s.Analysis = &a
		templates := r.templates(documents)
		a.Metrics = slices.Concat(a.Metrics, r.resolve(e.strategy.templated, templates))
	}
	if len(r.found) > 0 {
		return cd.Strategy{}, nil, r.found
	}
	return s, r.notes, nil
}

// strategy reads a word, or a mapping with one key.
func (r *reader) strategy(n *yaml.Node) strategy {
	known := []string{string(cd.Recreate), string(cd.Rolling), string(cd.BlueGreen), string(cd.Canary)}
	s := strategy{path: r.path}
	if n.Kind == yaml.ScalarNode {
		s.Kind = cd.Kind(r.word(n, known...))
		r.ofKind(&s, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: n.Line, Column: n.Column})
		return s
	}
	var keys []*yaml.Node
	r.mapping(n, func(key, value *yaml.Node) {
		if keys = append(keys, key); len(keys) > 1 {
			r.mistake(key, "there is a strategy already, %s: write one", keys[0].Value)
			return
		}
		kind := key.Value
		if kind == "blueGreen" {
			kind = string(cd.BlueGreen)
		}
		if !slices.Contains(known, kind) {
			r.mistake(key, "Unexpected value '%s'%s", key.Value, suggest(key.Value, known))
			return
		}
		s.Kind = cd.Kind(kind)
		r.ofKind(&s, value)
	})
	if len(keys) == 0 && n.Kind == yaml.MappingNode {
		r.mistake(n, "there is no strategy here: write one of %s", strings.Join(known, ", "))
	}
	return s
}

// ofKind reads what follows the kind.
func (r *reader) ofKind(s *strategy, n *yaml.Node) {
	switch s.Kind {
	case cd.Recreate:
		r.section(n, nil)
	case cd.Rolling:
		s.Rolling = &cd.RollingSet{Batch: 1}
		r.section(n, []field{{"batch", func(r *reader, n *yaml.Node) { s.Rolling.Batch = r.instances(n) }}})
	case cd.BlueGreen:
		s.BlueGreen = r.blueGreen(n)
	case cd.Canary:
		r.canary(s, n)
	}
}

// traffic are CodeDeploy's own configurations for ECS.
var traffic = map[string]cd.Traffic{
	"CodeDeployDefault.ECSAllAtOnce":                    {Type: "all-at-once"},
	"CodeDeployDefault.ECSLinear10PercentEvery1Minutes": {Type: "linear", Percent: 10, Interval: time.Minute},
	"CodeDeployDefault.ECSLinear10PercentEvery3Minutes": {Type: "linear", Percent: 10, Interval: 3 * time.Minute},
	"CodeDeployDefault.ECSCanary10Percent5Minutes":      {Type: "canary", Percent: 10, Interval: 5 * time.Minute},
	"CodeDeployDefault.ECSCanary10Percent15Minutes":     {Type: "canary", Percent: 10, Interval: 15 * time.Minute},
}

// blueGreen reads the fields of Terraform's aws_codedeploy_deployment_group and aws_codedeploy_deployment_config.
func (r *reader) blueGreen(n *yaml.Node) *cd.Fleets {
	f := &cd.Fleets{
		TerminationWait: defaultTermination, Traffic: traffic["CodeDeployDefault.ECSAllAtOnce"],
		RollbackOnFailure: true, RollbackOnAlarm: true,
	}
	at := r.section(n, []field{
		{"terminate_blue_instances_on_deployment_success", func(r *reader, n *yaml.Node) { r.terminate(n, f) }},
		{"deployment_ready_option", func(r *reader, n *yaml.Node) { r.ready(n, f) }},
		{"green_fleet_provisioning_option", func(r *reader, n *yaml.Node) {
			r.section(n, []field{{"action", func(r *reader, n *yaml.Node) {
				r.word(n, "DISCOVER_EXISTING", "COPY_AUTO_SCALING_GROUP")
			}}})
			r.note(n, "green_fleet_provisioning_option is about groups of machines of EC2: the new fleet has the instances that the service says")
		}},
		{"deployment_config_name", func(r *reader, n *yaml.Node) {
			f.Traffic = traffic[r.word(n, slices.Sorted(maps.Keys(traffic))...)]
		}},
		{"traffic_routing_config", func(r *reader, n *yaml.Node) { f.Traffic = r.routing(n) }},
		{"test_traffic_route", func(r *reader, n *yaml.Node) {
			at := r.section(n, []field{{"hosts", func(r *reader, n *yaml.Node) { f.TestHosts = r.hostNames(n) }}})
			if at["hosts"] == nil && n.Kind == yaml.MappingNode {
				r.mistake(n, "there are no hosts that lead to the new fleet: write hosts")
			}
		}},
		{"auto_rollback_configuration", func(r *reader, n *yaml.Node) { r.autoRollback(n, f) }},
	})
	if at["deployment_config_name"] != nil && at["traffic_routing_config"] != nil {
		r.mistake(at["traffic_routing_config"], "deployment_config_name says how traffic moves already: write one of them")
	}
	return f
}

func (r *reader) terminate(n *yaml.Node, f *cd.Fleets) {
	at := r.section(n, []field{
		{"action", func(r *reader, n *yaml.Node) { f.KeepAlive = r.word(n, "TERMINATE", "KEEP_ALIVE") == "KEEP_ALIVE" }},
		{"termination_wait_time_in_minutes", func(r *reader, n *yaml.Node) { f.TerminationWait = r.minutes(n, 0, mostTermination) }},
	})
	if wait := at["termination_wait_time_in_minutes"]; f.KeepAlive {
		f.TerminationWait = 0
		if wait != nil {
			r.note(wait, "with KEEP_ALIVE nothing is terminated: the wait has no effect")
		}
	}
}

func (r *reader) ready(n *yaml.Node, f *cd.Fleets) {
	at := r.section(n, []field{
		{"action_on_timeout", func(r *reader, n *yaml.Node) {
			f.ReadyStop = r.word(n, "CONTINUE_DEPLOYMENT", "STOP_DEPLOYMENT") == "STOP_DEPLOYMENT"
		}},
		{"wait_time_in_minutes", func(r *reader, n *yaml.Node) { f.ReadyWait = r.minutes(n, 0, mostReadyWait) }},
	})
	wait := at["wait_time_in_minutes"]
	switch {
	case !f.ReadyStop && f.ReadyWait > 0:
		f.ReadyWait = 0
		r.note(wait, "wait_time_in_minutes is of STOP_DEPLOYMENT alone: CONTINUE_DEPLOYMENT does not wait")
	case f.ReadyStop && wait == nil:
		f.ReadyWait = mostReadyWait
	case f.ReadyStop && f.ReadyWait == 0:
		r.mistake(wait, "STOP_DEPLOYMENT without a wait would stop every release: write how long somebody has to let it go on")
	}
}

// routing reads traffic_routing_config.
func (r *reader) routing(n *yaml.Node) cd.Traffic {
	var t cd.Traffic
	step := func(of string) func(r *reader, n *yaml.Node) {
		return func(r *reader, n *yaml.Node) {
			at := r.section(n, []field{
				{"interval", func(r *reader, n *yaml.Node) { t.Interval = r.minutes(n, 600*time.Millisecond, mostTermination) }},
				{"percentage", func(r *reader, n *yaml.Node) { t.Percent = r.between(n, 1, 99) }},
			})
			if (at["interval"] == nil || at["percentage"] == nil) && n.Kind == yaml.MappingNode {
				r.mistake(n, "%s needs interval and percentage", of)
			}
		}
	}
	var kind string
	at := r.section(n, []field{
		{"type", func(r *reader, n *yaml.Node) { kind = r.word(n, "AllAtOnce", "TimeBasedCanary", "TimeBasedLinear") }},
		{"time_based_canary", step("time_based_canary")},
		{"time_based_linear", step("time_based_linear")},
	})
	if n.Kind != yaml.MappingNode {
		return traffic["CodeDeployDefault.ECSAllAtOnce"]
	}
	needs := map[string]string{"TimeBasedCanary": "time_based_canary", "TimeBasedLinear": "time_based_linear"}[kind]
	if at["type"] == nil {
		r.mistake(n, "there is no type: write AllAtOnce, TimeBasedCanary or TimeBasedLinear")
	} else if needs != "" && at[needs] == nil {
		r.mistake(n, "%s needs %s", kind, needs)
	}
	for _, key := range []string{"time_based_canary", "time_based_linear"} {
		if at[key] != nil && key != needs && kind != "" {
			r.mistake(at[key], "%s is not of type %s: leave it out", key, kind)
		}
	}
	t.Type = map[string]string{"AllAtOnce": "all-at-once", "TimeBasedCanary": "canary", "TimeBasedLinear": "linear"}[kind]
	return t
}

func (r *reader) autoRollback(n *yaml.Node, f *cd.Fleets) {
	enabled := true
	at := r.section(n, []field{
		{"enabled", func(r *reader, n *yaml.Node) { enabled = r.boolean(n) }},
		{"events", func(r *reader, n *yaml.Node) {
			f.RollbackOnFailure, f.RollbackOnAlarm = false, false
			for _, e := range r.list(n) {
				switch r.word(e, "DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM", "DEPLOYMENT_STOP_ON_REQUEST") {
				case "DEPLOYMENT_FAILURE":
					f.RollbackOnFailure = true
				case "DEPLOYMENT_STOP_ON_ALARM":
					f.RollbackOnAlarm = true
				case "DEPLOYMENT_STOP_ON_REQUEST":
					r.note(e, "a release that somebody stops is always taken back: DEPLOYMENT_STOP_ON_REQUEST changes nothing")
				}
			}
		}},
	})
	if !enabled {
		f.RollbackOnFailure, f.RollbackOnAlarm = false, false
		if at["events"] != nil {
			r.note(at["events"], "auto_rollback_configuration is not enabled: its events have no effect")
		}
	}
}

// minutes reads what CodeDeploy has whole minutes of; parts of one are taken, too: 0.5 is 30 seconds.
func (r *reader) minutes(n *yaml.Node, least, most time.Duration) time.Duration {
	x, ok := r.number(n)
	if !ok {
		return least
	}
	if d := x * float64(time.Minute); d < float64(least) || d > float64(most) {
		r.mistake(n, "'%s' is not between %s and %s minutes", n.Value, minutesText(least), minutesText(most))
		return least
	}
	return time.Duration(math.Round(x*60*1000)) * time.Millisecond
}

func minutesText(d time.Duration) string { return strconv.FormatFloat(d.Minutes(), 'f', -1, 64) }

// percent reads a share of a hundred, with or without its sign.
func (r *reader) percent(n *yaml.Node) float64 {
	plain := *n
	if text, ok := strings.CutSuffix(n.Value, "%"); ok && n.Kind == yaml.ScalarNode {
		plain.Value, plain.Tag, plain.Style = strings.TrimSpace(text), "", 0
	}
	return r.between(&plain, 0, 100)
}
