package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/penstock-ci/penstock/internal/cd"
)

const full = `# what GitHub has no word for
runs-on:
  ubuntu-latest: host
  Windows-2022: none
  node: docker://node:22-bookworm@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
  big: docker
actions:
  octo/deploy@v1: ./actions/deploy
  octo/many: actions
  octo/many/one/deep@main: ./actions/./one
images:
  mirrors:
    docker.io: [mirror.example:5000/hub, 10.0.0.1]
    quay.io: mirror.example
  insecure: ["registry.lan:5000", "[::1]:80"]
  push: send
limits: {memory: 1.5GiB, cpus: 2, processes: 4096}
`

func TestParse(t *testing.T) {
	got, err := Parse("penstock.yaml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		RunsOn: []RunsOn{
			{Pos{3, 3}, "ubuntu-latest", Machine{Kind: Host}},
			{Pos{4, 3}, "Windows-2022", Machine{Kind: None}},
			{Pos{5, 3}, "node", Machine{Image, "node:22-bookworm@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}},
			{Pos{6, 3}, "big", Machine{Kind: Docker}},
		},
		Actions: []Action{
			{Pos{8, 3}, "octo/deploy@v1", "actions/deploy"},
			{Pos{9, 3}, "octo/many", "actions"},
			{Pos{10, 3}, "octo/many/one/deep@main", "actions/one"},
		},
		Images: Images{
			Mirrors:  map[string][]string{"docker.io": {"mirror.example:5000/hub", "10.0.0.1"}, "quay.io": {"mirror.example"}},
			Insecure: []string{"registry.lan:5000", "[::1]:80"}, Push: Send,
		},
		Limits: Limits{Memory: 3 << 29, CPUs: 2, Processes: 4096},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if m, ok := got.Machine([]string{"self-hosted", "windows-2022", "node"}); !ok || m.Machine.Kind != None {
		t.Errorf("got %+v, %v", m, ok)
	}
	if m, ok := got.Machine([]string{"macos"}); ok {
		t.Errorf("got %+v", m)
	}
	if o := got.Overrides("/r"); o["octo/deploy@v1"] != "/r/actions/deploy" || len(o) != 3 {
		t.Errorf("got %v", o)
	}
}

// cases are files and what is said of them; schema says what an editor says of them where that is not the same.
var cases = append([]mistake{
	{"", "", ""},
	{"# nothing\n", "", ""},
	{"--- ~\n", "", ""},
	{"runs-on:\nimages:\n  mirrors:\nlimits: {}\n", "", ""},
	{"limits: {memory: 33554432}\n", "", ""},
	{"limits: {memory: 4 GB, cpus: 0.5}\n", "", ""},
	{"x: &a {memory: 1g}\nlimits: *a\n", "1:1: Unexpected value 'x': there are runs-on, actions, images, limits, services, environments", ""},
	{"images: {insecure: &h [a.example], mirrors: {b.example: *h}}\n", "", ""},
	{"images: {mirrors: {docker.io: }}\n", "", ""},
	{"runs_on: {a: host}\nlimit: {}\n", "1:1: Unexpected value 'runs_on'; did you mean 'runs-on'?\n2:1: Unexpected value 'limit'; did you mean 'limits'?", ""},
	{"limits:\n  cpu: 2\n  memory: lots\n  processes: 1.5\n",
		"2:3: Unexpected value 'cpu'; did you mean 'cpus'?\n3:11: 'lots' is no size: write one such as 4GiB or 512MiB\n4:14: '1.5' is no number of processes: write one such as 4096", ""},
	{"limits: {memory: 1k, cpus: .inf, processes: 0}\n",
		"1:18: '1k' is not between 16MiB and 1024TiB\n1:28: '.inf' is no number of cores: write one such as 2 or 0.5\n1:45: '0' is not between 8 and 4194304 processes", ""},
	{"limits: {memory: 1k}\n", "1:18: '1k' is not between 16MiB and 1024TiB", "open"},
	{"limits: {cpus: nan, memory: -1g}\n", "1:16: 'nan' is no number of cores: write one such as 2 or 0.5\n1:29: '-1g' is no size: write one such as 4GiB or 512MiB", ""},
	{"limits: {cpus: [2], memory: }\n", "1:16: A number of cores such as 2 or 0.5 was expected\n1:29: A size such as 4GiB or 512MiB was expected", ""},
	{"runs-on: {a: hots}\n", "1:14: 'hots' is no kind of machine: there are host, none, docker and docker://IMAGE; did you mean 'host'?", ""},
	{"runs-on: {a: node:22}\n", "1:14: 'node:22' is no kind of machine: write an image as docker://node:22", ""},
	{"runs-on: {a: 'docker://', A: host}\n", "1:14: 'docker://' names no image: invalid reference format\n1:27: 'A' is already defined", ""},
	{"runs-on: {a: docker://UPPER}\n", "1:14: 'docker://UPPER' names no image: invalid reference format: repository name (library/UPPER) must be lowercase", "open"},
	{"runs-on: {[a]: host, ? {b: c} : host, ~: host, b: [host]}\n", "1:11: A key must be text\n1:24: A key must be text\n1:39: A key must be text\n1:51: Text was expected", ""},
	{"runs-on: host\n", "1:10: A mapping was expected", ""},
	{"- a\n", "1:1: A mapping was expected", ""},
	{"actions:\n  octo: ./a\n  octo/a: ../b\n  octo/b: /etc\n  octo/c: 'a\\b'\n  octo/d//e: ./a\n",
		"2:3: 'octo' names no action: write owner/repo, owner/repo/path or owner/repo@ref\n" +
			"3:11: '../b' leads out of the repository: write a directory of it, such as ./actions/deploy\n" +
			"4:11: '/etc' leads out of the repository: write a directory of it, such as ./actions/deploy\n" +
			"5:11: 'a\\b' is no directory: write one of this repository, such as ./actions/deploy\n" +
			"6:3: 'octo/d//e' names no action: write owner/repo, owner/repo/path or owner/repo@ref", ""},
	{"actions: {o/a: a/../../b}\n", "1:16: 'a/../../b' leads out of the repository: write a directory of it, such as ./actions/deploy", "open"},
	{"actions: {o/a@v1: 7}\n", "1:19: Text was expected", ""},
	{"images:\n  mirrors: {'https://x': [a], docker.io: [http://b, c d]}\n  insecure: [a/b, 5]\n  push: away\n",
		"2:13: 'https://x' is no registry: write its host, such as docker.io or registry.example:5000\n" +
			"2:43: 'http://b' is no mirror: write HOST[:PORT][/PREFIX], without a scheme\n" +
			"2:53: 'c d' is no mirror: write HOST[:PORT][/PREFIX], without a scheme\n" +
			"3:14: 'a/b' is no registry: write HOST[:PORT], without a scheme or path\n3:19: Text was expected\n" +
			"4:9: 'away' is neither keep (in this machine's registry) nor send (to the registry that the name says)", ""},
	{"images: {insecure: {a: b}}\n", "1:20: A list was expected", ""},
	{"services: {}\nenvironments: {}\n", "", ""},
	{"limits: {}\n---\nlimits: {}\n", "2:1: a second document begins here: write one", "no YAML"},
	{"a: [\n", "1:1: this is no YAML: did not find expected node content", "no YAML"},
	{"a: b: c\n", "1:5: this is no YAML: mapping values are not allowed in this context", "no YAML"},
	{"services:\n\tweb: {}\n", "2:1: this is no YAML: found character that cannot start any token: spaces indent, tabs do not, and a text that begins with @ or ` is quoted", "no YAML"},
	{"a: *b\n", "1:1: this is no YAML: unknown anchor 'b' referenced", "no YAML"},
	{"a: x\xff\n", "1:5: the file is not UTF-8 here", "no YAML"},
	{"runs-on: &a {x: *a}\n", "1:10: Text was expected", "no YAML"},
	{strings.Repeat("#", maxSize+1), "0:0: the file is larger than 256 KiB", "no YAML"},
	{"images: {insecure: [" + strings.Repeat("h,", maxEntries+1) + "]}\n", fmt.Sprintf("1:%d: the file has more than 10000 entries", 21+2*(maxEntries-2)), "open"},
}, releaseCases...)

type mistake struct {
	text, want string
	schema     string // "open": the schema can not tell
}

func TestMistakes(t *testing.T) {
	for _, c := range cases {
		_, err := Parse("penstock.yaml", []byte(c.text))
		var lines []string
		var found Errors
		if errors.As(err, &found) {
			for _, f := range found {
				lines = append(lines, fmt.Sprintf("%d:%d: %s", f.Line, f.Column, f.Message))
			}
		}
		if got := strings.Join(lines, "\n"); got != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%.80q:\ngot  %s\nwant %s", c.text, got, c.want)
		}
	}
	_, err := Parse("penstock.yaml", []byte("limits:\n  cpus: x\n"))
	if got, want := fmt.Sprint(err), "penstock.yaml (Line: 2, Col: 9): 'x' is no number of cores: write one such as 2 or 0.5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestSchema holds the schema for editors to the parser: it has the same keys, and says the same of the same files.
func TestSchema(t *testing.T) {
	data, err := os.ReadFile("../../docs/penstock.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("penstock.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("penstock.json")
	if err != nil {
		t.Fatal(err)
	}
	all := cases
	all = append(all, mistake{full, "", ""}, mistake{fullRelease, "", ""})
	for _, c := range all {
		if c.schema != "" {
			continue
		}
		value, ok := asJSON(t, c.text)
		if !ok {
			continue
		}
		if err := schema.Validate(value); (err == nil) != (c.want == "") {
			t.Errorf("%.80q: the schema says %v, the parser %q", c.text, err, c.want)
		}
	}
}

// TestSchemaHasTheSameKeys asks the parser what there is, in each of its sections.
func TestSchemaHasTheSameKeys(t *testing.T) {
	data, err := os.ReadFile("../../docs/penstock.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	const unknown = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
	for text, place := range map[string]string{
		"%s":                               "",
		"images: {%s}":                     "properties/images",
		"limits: {%s}":                     "properties/limits",
		"services: {w: {%s}}":              "definitions/service",
		service("build: {%s}"):             "definitions/service/properties/build/anyOf/2",
		service("health: {%s}"):            "definitions/service/properties/health/anyOf/2",
		service("resources: {%s}"):         "definitions/resources",
		service("pre-release: {%s}"):       "definitions/service/properties/pre-release/anyOf/1",
		service("sticky: {%s}"):            "definitions/service/properties/sticky/anyOf/1",
		"environments: {p: {%s}}":          "definitions/environment",
		"environments: {p: {watch: {%s}}}": "definitions/environment/properties/watch",
		"services: {w: {command: a, port: 1}}\nenvironments: {p: {services: {w: {%s}}}}": "definitions/environment/properties/services/additionalProperties",
		of("{rolling: {%s}}"):    "definitions/environment/properties/strategy/anyOf/1/properties/rolling",
		of("{blue-green: {%s}}"): "definitions/blue-green",
		of("{blue-green: {terminate_blue_instances_on_deployment_success: {%s}}}"):       "definitions/blue-green/properties/terminate_blue_instances_on_deployment_success",
		of("{blue-green: {deployment_ready_option: {%s}}}"):                              "definitions/blue-green/properties/deployment_ready_option",
		of("{blue-green: {green_fleet_provisioning_option: {%s}}}"):                      "definitions/blue-green/properties/green_fleet_provisioning_option",
		of("{blue-green: {test_traffic_route: {%s}}}"):                                   "definitions/blue-green/properties/test_traffic_route",
		of("{blue-green: {auto_rollback_configuration: {%s}}}"):                          "definitions/blue-green/properties/auto_rollback_configuration",
		of("{blue-green: {traffic_routing_config: {type: a, time_based_canary: {%s}}}}"): "definitions/time-based",
		of("{canary: {sessionAffinity: {%s}}}"):                                          "definitions/canary/anyOf/2/properties/sessionAffinity",
		of("{canary: {match: [{%s}]}}"):                                                  "definitions/match",
		of("{canary: {match: [{headers: {x: {%s}}}]}}"):                                  "definitions/match/properties/headers/additionalProperties",
		of("{canary: {metrics: [{%s}]}}"):                                                "definitions/metric",
		of("{canary: {metrics: [{thresholdRange: {%s}}]}}"):                              "definitions/metric/properties/thresholdRange",
		of("{canary: {metrics: [{templateRef: {%s}}]}}"):                                 "definitions/metric/properties/templateRef",
		of("{canary: {webhooks: [{%s}]}}"):                                               "definitions/webhook",
		of("{canary: {%s}}"):                                                             "definitions/canary/anyOf/2",
	} {
		_, err := Parse(Name, fmt.Appendf(nil, text, unknown+": 1"))
		_, list, ok := strings.Cut(fmt.Sprint(err), "Unexpected value '"+unknown+"': there are ")
		list, _, _ = strings.Cut(list, "\n")
		if !ok {
			t.Errorf("%s: got %v", text, err)
			continue
		}
		node := any(schema)
		for _, step := range strings.FieldsFunc(place, func(c rune) bool { return c == '/' }) {
			if array, ok := node.([]any); ok {
				i, _ := strconv.Atoi(step)
				node = array[i]
			} else {
				node = node.(map[string]any)[step]
			}
		}
		want := strings.Split(list, ", ")
		want = slices.DeleteFunc(want, func(key string) bool { return key == "manifest" }) // stands alone, in a form of its own
		got := slices.Sorted(maps.Keys(node.(map[string]any)["properties"].(map[string]any)))
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %v\nwant %v", text, got, want)
		}
	}
}

// asJSON is what an editor sees of a file; ok is false for what JSON can not say.
func asJSON(t *testing.T, text string) (any, bool) {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		return nil, false
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, false
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return out, true
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	if c, err := Read(dir); err != nil || !reflect.DeepEqual(c, &Config{}) {
		t.Errorf("got %v, %v for none", c, err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("penstock.yml", "limits: {}")
	if _, err := Read(dir); err == nil || err.Error() != "penstock.yml: this file is not read: its name must be penstock.yaml" {
		t.Errorf("got %v", err)
	}
	write("penstock.yaml", "limits: {cpus: 3}")
	if c, err := Read(dir); err != nil || c.Limits.CPUs != 3 {
		t.Errorf("got %v, %v", c, err)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, Name)), os.Mkdir(filepath.Join(dir, Name), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || err.Error() != "penstock.yaml: this is no regular file" {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(fullRelease))
	for _, c := range cases {
		if len(c.text) < 1000 {
			f.Add([]byte(c.text))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(Name, data)
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v, %v", c, err)
		}
		var found Errors
		if err != nil && (!errors.As(err, &found) || len(found) == 0) {
			t.Fatalf("%v is not a list of findings", err)
		}
		if err == nil {
			for i := range c.Environments {
				e := &c.Environments[i]
				if got := c.ServicesOf(e); len(got) != len(c.Services) {
					t.Errorf("%d of %d services", len(got), len(c.Services))
				}
				e.Deploys("release/1.0")
				s, _, err := e.Strategy(func(string) ([]byte, error) { return []byte(guide), nil })
				if a := s.Analysis; err == nil && s.Kind == cd.Canary && !a.SkipAnalysis && a.Iterations+a.StepWeight+len(a.StepWeights) == 0 {
					t.Errorf("the release would never go on: %+v", a)
				}
			}
		}
		lines := 2
		for _, c := range string(data) {
			if strings.ContainsRune("\n\r\u0085\u2028\u2029", c) { // what ends a line in YAML 1.1
				lines++
			}
		}
		for _, f := range found {
			if f.Line < 0 || f.Line > lines || (f.Line == 0) != (f.Column == 0) {
				t.Errorf("%v of %d lines", f, lines)
			}
		}
	})
}
