package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// smallest is the smallest file that releases something.
const smallest = `services:
  web:
    command: python3 server.py        # or image:, or build:; PORT is in its environment
    port: 8000
    health: {path: /health, interval: 1s, retries: 30}
environments:
  production: {hosts: [web.localhost], strategy: blue-green}
`

const fullRelease = `environments: # may stand before what they release
  staging:
    target: host
    hosts: [staging.example.com, "*.staging.example.com"]
    branch: [main, release/**]
    variables: {LOG: debug, WORKERS: 2}
    secrets: [TOKEN]
    required: DATABASE_URL
    watch: {for: 10m, errors: 1.5%, latency: 800ms, restarts: 0, min-sample: 20}
    services:
      api:
        instances: 1
        env: {LOG: trace}
        resources: {memory: 64MiB}
  Production:
    hosts: {web: shop.example.com, api: [api.example.com]}
    strategy:
      blueGreen:
        terminate_blue_instances_on_deployment_success:
          action: TERMINATE
          termination_wait_time_in_minutes: 0.5
        deployment_ready_option:
          action_on_timeout: STOP_DEPLOYMENT
          wait_time_in_minutes: 60
        green_fleet_provisioning_option:
          action: COPY_AUTO_SCALING_GROUP
        deployment_config_name: CodeDeployDefault.ECSCanary10Percent5Minutes
        test_traffic_route: {hosts: [test.example.com]}
        auto_rollback_configuration:
          enabled: true
          events: [DEPLOYMENT_FAILURE]
  batch: {strategy: {rolling: {batch: 2}}}
services:
  web:
    image: ghcr.io/octo/web:${{ github.sha }}
    command: [node, server.js, --port, 3000]
    port: 3000
    health: /health
    sticky: true
    max-body: 10MiB
    response-timeout: 1m
  api:
    build: {context: ./backend, dockerfile: docker/Dockerfile, target: run, args: {V: 1.0}}
    port: 8000
    path: /api/
    strip-path: true
    grpc: true
    health: {path: /health, interval: 500ms, timeout: 2s, retries: 3}
    env: {LOG: info, Log: x, EMPTY: ''}
    required: [DATABASE_URL, REDIS_URL]
    secrets: [STRIPE_SECRET_KEY, WORKERS]
    instances: 3
    resources: {memory: 512MiB, cpus: 0.5}
    pre-release: {command: python3 manage.py migrate && echo done, timeout: 5m}
    stop-grace: 30s
    sticky: {cookie: who, max-age: 1h}
  docs:
    command: "python3 -m http.server $PORT"
    files: ./docs
    port: 8001
    path: /docs
    pre-release: [sh, check.sh]
    sticky: {header: x-user}
  page:
    command: 'caddy file-server --root "my files"'
    artifact: site
    port: 8002
`

func TestServices(t *testing.T) {
	c, err := Parse(Name, []byte(fullRelease))
	if err != nil {
		t.Fatal(err)
	}
	second, day := time.Second, cd.Health{Interval: time.Second, Timeout: 5 * time.Second, Retries: 30}
	want := []Service{
		{
			Pos: Pos{34, 3}, Name: "web", Image: "ghcr.io/octo/web:${{ github.sha }}", Files: Files{Dir: "."},
			Command: []string{"node", "server.js", "--port", "3000"}, Port: 3000,
			Health: cd.Health{Path: "/health", Interval: second, Timeout: 5 * second, Retries: 30}, Instances: 1, Grace: 10 * second,
			Sticky: Sticky{Cookie: "penstock"}, MaxBody: 10 << 20, ResponseTimeout: time.Minute,
		},
		{
			Pos: Pos{42, 3}, Name: "api", Files: Files{Dir: "."}, Port: 8000, Path: "/api", StripPath: true, GRPC: true,
			Build:    &Build{"backend", "docker/Dockerfile", "run", map[string]string{"V": "1.0"}},
			Health:   cd.Health{Path: "/health", Interval: second / 2, Timeout: 2 * second, Retries: 3},
			Env:      map[string]string{"LOG": "info", "Log": "x", "EMPTY": ""},
			Required: []string{"DATABASE_URL", "REDIS_URL"}, Secrets: []string{"STRIPE_SECRET_KEY", "WORKERS"},
			Instances: 3, Memory: 512 << 20, CPUs: 0.5, Grace: 30 * second,
			Hook: []string{"sh", "-c", "python3 manage.py migrate && echo done"}, HookTimeout: 5 * time.Minute,
			Sticky: Sticky{Cookie: "who", MaxAge: time.Hour},
		},
		{
			Pos: Pos{57, 3}, Name: "docs", Command: []string{"sh", "-c", "python3 -m http.server $PORT"}, Files: Files{Dir: "docs"},
			Port: 8001, Path: "/docs", Health: day, Instances: 1, Grace: 10 * second,
			Hook: []string{"sh", "check.sh"}, HookTimeout: 10 * time.Minute, Sticky: Sticky{Header: "x-user"},
		},
		{
			Pos: Pos{64, 3}, Name: "page", Command: []string{"caddy", "file-server", "--root", "my files"},
			Files: Files{Artifact: "site", Dir: "."}, Port: 8002, Health: day, Instances: 1, Grace: 10 * second,
		},
	}
	if !reflect.DeepEqual(c.Services, want) {
		t.Errorf("got  %+v\nwant %+v", c.Services, want)
	}
	if got, want := c.Services[0].ImageAt("abc"), "ghcr.io/octo/web:abc"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	staging, ok := c.Environment("STAGING")
	if !ok {
		t.Fatal("there is no staging")
	}
	services := c.ServicesOf(staging)
	for i, hosts := range [][]string{ // the first without a path, and all with one
		{"staging.example.com", "*.staging.example.com"}, {"staging.example.com", "*.staging.example.com"},
		{"staging.example.com", "*.staging.example.com"}, nil,
	} {
		if !reflect.DeepEqual(services[i].Hosts, hosts) {
			t.Errorf("%s: got %v, want %v", services[i].Name, services[i].Hosts, hosts)
		}
	}
	api := services[1]
	// The environment's plain WORKERS takes the place of the service's secret.
	if got, want := api.Env, (map[string]string{"LOG": "trace", "Log": "x", "EMPTY": "", "WORKERS": "2"}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := api.Secrets, []string{"STRIPE_SECRET_KEY", "TOKEN"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if api.Instances != 1 || api.Memory != 64<<20 || api.CPUs != 0.5 {
		t.Errorf("got %d, %d, %v", api.Instances, api.Memory, api.CPUs)
	}
	have := func(name string) bool { return name == "TOKEN" || name == "REDIS_URL" }
	if got, want := api.Missing(have), []string{"DATABASE_URL", "STRIPE_SECRET_KEY"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := c.Services[1].Env["LOG"]; got != "info" {
		t.Errorf("merging has changed the service: LOG is %s", got)
	}
	if got, want := staging.Watch, (cd.Watch{For: 10 * time.Minute, Errors: 1.5, Latency: 800 * time.Millisecond, MinSample: 20, Interval: 5 * time.Second}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for branch, want := range map[string]bool{"main": true, "release/1/x": true, "mainly": false, "feature/main": false} {
		if got := staging.Deploys(branch); got != want {
			t.Errorf("%s: got %v", branch, got)
		}
	}
	production, _ := c.Environment("production")
	if got := c.ServicesOf(production); !reflect.DeepEqual(got[1].Hosts, []string{"api.example.com"}) || got[2].Hosts != nil {
		t.Errorf("got %v, %v", got[1].Hosts, got[2].Hosts)
	}
	if production.Deploys("main") {
		t.Error("an environment without branches deploys by itself")
	}
	if _, ok := c.Environment("nowhere"); ok {
		t.Error("there is an environment that is not there")
	}
}

// A secret of the environment takes the place of a service's plain variable.
func TestSecretsOfAnEnvironment(t *testing.T) {
	c, err := Parse(Name, []byte("services: {w: {command: a, port: 1, env: {A: x}}}\nenvironments: {p: {secrets: A}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := c.ServicesOf(&c.Environments[0])[0]
	if len(got.Env) != 0 || !reflect.DeepEqual(got.Secrets, []string{"A"}) {
		t.Errorf("got %v, %v", got.Env, got.Secrets)
	}
}

func TestCommand(t *testing.T) {
	for text, want := range map[string][]string{
		"python3 server.py":        {"python3", "server.py"},
		`a 'b c' "d e" f\ g`:       {"a", "b c", "d e", "f g"},
		`a ""`:                     {"a", ""},
		"a -p $PORT":               {"sh", "-c", "a -p $PORT"},
		"a && b":                   {"sh", "-c", "a && b"},
		"a > b":                    {"sh", "-c", "a > b"},
		"a *.txt":                  {"sh", "-c", "a *.txt"},
		"A=b c":                    {"sh", "-c", "A=b c"},
		"exec a":                   {"sh", "-c", "exec a"},
		"executive a":              {"executive", "a"},
		"a --flag=x":               {"a", "--flag=x"},
		"cd x\na":                  {"sh", "-c", "cd x\na"},
		"uvicorn app:app --port 1": {"uvicorn", "app:app", "--port", "1"},
	} {
		c, err := Parse(Name, []byte(fmt.Sprintf("services: {w: {port: 1, command: %q}}", text)))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := c.Services[0].Command; !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func none(name string) ([]byte, error) { return nil, fmt.Errorf("%s is asked for", name) }

func TestStrategies(t *testing.T) {
	minute, allAtOnce := time.Minute, cd.Traffic{Type: "all-at-once"}
	for text, want := range map[string]cd.Strategy{
		"":                                {Kind: cd.Rolling, Rolling: &cd.RollingSet{Batch: 1}},
		"strategy: rolling":               {Kind: cd.Rolling, Rolling: &cd.RollingSet{Batch: 1}},
		"strategy: {rolling: }":           {Kind: cd.Rolling, Rolling: &cd.RollingSet{Batch: 1}},
		"strategy: {rolling: {batch: 3}}": {Kind: cd.Rolling, Rolling: &cd.RollingSet{Batch: 3}},
		"strategy: recreate":              {Kind: cd.Recreate},
		"strategy: blue-green": {Kind: cd.BlueGreen, BlueGreen: &cd.Fleets{
			TerminationWait: 5 * minute, Traffic: allAtOnce, RollbackOnFailure: true, RollbackOnAlarm: true,
		}},
		"strategy: {blue-green: {terminate_blue_instances_on_deployment_success: {action: KEEP_ALIVE}, deployment_ready_option: {action_on_timeout: STOP_DEPLOYMENT}, auto_rollback_configuration: {enabled: false}}}": {
			Kind: cd.BlueGreen, BlueGreen: &cd.Fleets{KeepAlive: true, ReadyStop: true, ReadyWait: 120 * time.Hour, Traffic: allAtOnce},
		},
		"strategy: {blue-green: {deployment_config_name: CodeDeployDefault.ECSLinear10PercentEvery3Minutes}}": {
			Kind: cd.BlueGreen, BlueGreen: &cd.Fleets{
				TerminationWait: 5 * minute, Traffic: cd.Traffic{Type: "linear", Percent: 10, Interval: 3 * minute}, RollbackOnFailure: true, RollbackOnAlarm: true,
			},
		},
		"strategy: {blue-green: {traffic_routing_config: {type: TimeBasedCanary, time_based_canary: {interval: 0.1, percentage: 25}}}}": {
			Kind: cd.BlueGreen, BlueGreen: &cd.Fleets{
				TerminationWait: 5 * minute, Traffic: cd.Traffic{Type: "canary", Percent: 25, Interval: 6 * time.Second}, RollbackOnFailure: true, RollbackOnAlarm: true,
			},
		},
	} {
		c, err := Parse(Name, []byte("services: {w: {command: a, port: 1}}\nenvironments: {p: {"+text+"}}\n"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, notes, err := c.Environments[0].Strategy(none)
		if err != nil || len(notes) > 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v %+v, %v, %v\nwant %+v %+v", text, got, got.BlueGreen, notes, err, want, want.BlueGreen)
		}
	}
	c, err := Parse(Name, []byte(fullRelease))
	if err != nil {
		t.Fatal(err)
	}
	got, _, _ := c.Environments[1].Strategy(none)
	if want := (&cd.Fleets{
		TerminationWait: 30 * time.Second, ReadyStop: true, ReadyWait: time.Hour, TestHosts: []string{"test.example.com"},
		Traffic: cd.Traffic{Type: "canary", Percent: 10, Interval: 5 * minute}, RollbackOnFailure: true,
	}); !reflect.DeepEqual(got.BlueGreen, want) {
		t.Errorf("got %+v, want %+v", got.BlueGreen, want)
	}
	if got, want := fmt.Sprint(c.Notes), "[penstock.yaml (Line: 26, Col: 11): green_fleet_provisioning_option is about groups of machines of EC2: the new fleet has the instances that the service says]"; got != want {
		t.Errorf("got %s", got)
	}
}

func TestNoteOfNoTraffic(t *testing.T) {
	c, err := Parse(Name, []byte(of("canary")))
	if want := "[penstock.yaml (Line: 2, Col: 30): the environment has no hosts: without traffic nothing is judged, and no release gets through]"; err != nil || fmt.Sprint(c.Notes) != want {
		t.Errorf("got %v, %v", c, err)
	}
}

// of is a file with one service and an environment that has a strategy.
func of(strategy string) string {
	return "services: {w: {command: a, port: 1}}\nenvironments: {p: {strategy: " + strategy + "}}\n"
}

// service is a file with one.
func service(fields string) string { return "services: {w: {" + fields + "}}\n" }

var releaseCases = []mistake{
	{smallest, "", ""},
	{"services: {web: {comand: a, port: 1}}\n", "1:12: 'web' has nothing to run: write image, build or command\n1:18: Unexpected value 'comand'; did you mean 'command'?", ""},
	{"services: {web: }\nenvironments: {p: }\n", "1:12: 'web' has nothing to run: write image, build or command", ""},
	{"services:\n  w: {command: w, sticky: true, path: /w}\n", "2:27: sticky is of requests, and 'w' gets none: it has no port. Write the one that it listens on, such as port: 8000\n2:39: path is of requests, and 'w' gets none: it has no port. Write the one that it listens on, such as port: 8000", ""},
	{"services:\n  w: {command: w, health: /up}\n", "2:27: 'w' can not be asked for /up: it has no port. Write the one that it listens on, such as port: 8000", "open"},
	{"services: {w: {command: w, health: {interval: 2s}}}\nenvironments: {p: {hosts: {w: [a.example]}}}\n", "2:31: 'w' has no port: no host can lead to it", "open"},
	{"services: {w: {command: w}}\nenvironments: {p: {hosts: [a.example]}}\n", "2:27: these hosts lead to nothing: no service has a port", "open"},
	{"services: {web: a}\n", "1:17: A mapping was expected", ""},
	{"services: {Web: {command: a, port: 1}}\n", "1:12: 'Web' is no name of a service: write lower case letters, digits and -, at most 63", ""},
	{"environments: {p: {}}\n", "1:15: there is nothing to release: write services, too", ""},
	{"services: {}\nenvironments: {p: {}}\n", "2:15: there is nothing to release: write services, too", "open"},
	{service("command: a, port: 0"), "1:34: '0' is not between 1 and 65535", ""},
	{service("command: a, port: web"), "1:34: 'web' is not a port such as 8000", ""},
	{service("image: a, build: ., port: 1"), "1:33: the service has an image already: write one of image and build", ""},
	{service("image: a, files: ., port: 1"), "1:33: an image brings its own files: files is for a command without one", ""},
	{service("command: a, files: x, artifact: y, port: 1"), "1:35: the command has the files of an artifact already: write one of artifact and files", ""},
	{service("image: 'a b', port: 1"), "1:23: 'a b' names no image: invalid reference format", "open"},
	{service("image: 'a:${{ github.ref }}', port: 1"), "1:23: in an image only ${{ github.sha }} is known, the commit that is released", "open"},
	{service("build: ../x, port: 1"), "1:23: '../x' leads out of the repository: write a directory of it, such as ./actions/deploy", ""},
	{service("build: {context: a, dockerfile: /etc/x}, port: 1"), "1:48: '/etc/x' is no file of the repository: write one such as Dockerfile", ""},
	{service("command: [], port: 1"), "1:25: the command is empty: write what is to be run, such as python3 server.py", ""},
	{service("command: 'a \"b', port: 1"), "1:25: 'a \"b' can not be split into words: invalid command line string", "open"},
	{service("command: [a, [b]], port: 1"), "1:29: A word of the command was expected", ""},
	{service("command: a, artifact: a/b, port: 1"), "1:38: 'a/b' is no name of an artifact: write it as the workflow does that uploads it", ""},
	{service("command: a, port: 1, health: health"), "1:45: 'health' is no path: write one such as /health", ""},
	{service("command: a, port: 1, health: {path: /, intervall: 1s}"), "1:55: Unexpected value 'intervall'; did you mean 'interval'?", ""},
	{service("command: a, port: 1, health: {interval: 5, timeout: soon, retries: 0}"), "1:56: '5' has no unit: write a time such as 5s or 5m\n1:68: 'soon' is no time: write one such as 30s, 5m or 1h30m\n1:83: '0' is not between 1 and 10000", ""},
	{service("command: a, port: 1, stop-grace: 2h"), "1:49: '2h' is not between 0s and 1h", "open"},
	{service("command: a, port: 1, env: {1A: x, PORT: 2, B: [c], C: , D: '${{ secrets.D }}'}"),
		"1:43: '1A' is no name of a variable: write letters, digits and _\n1:50: PORT is the service's port already: write port\n1:62: A value ('' is the empty one) was expected\n1:70: A value ('' is the empty one) was expected\n1:75: ${{ }} is not evaluated here: write the value, name a secret under secrets, or a variable of the environment under its variables", ""},
	{service("command: a, port: 1, env: {A: 1}, secrets: [A, B, B]"), "1:59: 'A' is a secret and a plain variable: write it once\n1:66: 'B' is already defined", ""},
	{service("command: a, port: 1, env: {A: 1}, secrets: [A]"), "1:59: 'A' is a secret and a plain variable: write it once", "open"},
	{service("command: a, port: 1, instances: many, grpc: 1"), "1:48: 'many' is not a number of instances such as 2\n1:60: true or false was expected", ""},
	{service("command: a, port: 1, path: api"), "1:43: 'api' is no prefix of paths: write one such as /api", ""},
	{service("command: a, port: 1, path: /a/../b"), "1:43: '/a/../b' is no prefix of paths: write one such as /api", "open"},
	{service("command: a, port: 1, strip-path: true"), "1:49: there is no path to strip: write path, too", ""},
	{service("command: a, port: 1, path: /"), "", ""},
	{service("command: a, port: 1, sticky: {cookie: a, header: b}"), "1:65: a client is known by a cookie or by a header: write one of them", ""},
	{service("command: a, port: 1, sticky: {header: b, max-age: 1h}"), "1:66: a header has no age: leave max-age out", ""},
	{service("command: a, port: 1, sticky: {cookie: 'a b'}"), "1:54: 'a b' is no name of a cookie or header: write letters, digits and -", ""},
	{service("command: a, port: 1, sticky: {}"), "", ""},
	{service("command: a, port: 1, pre-release: {timeout: 1m}"), "1:50: there is nothing to run: write command", ""},
	{service("command: a, port: 1, max-body: 0"), "1:47: '0' is not between 1B and 1024TiB", ""},
	{"services: {a: {command: a, port: 1}, b: {command: b, port: 1}}\nenvironments:\n  p: {hosts: {a: x.example, b: x.example}}\n",
		"3:14: x.example leads to 'a' of 'p' already: write another host, or a path for one of the services", "open"},
	{"services: {a: {command: a, port: 1}, b: {command: b, port: 1, path: /b}}\nenvironments:\n  p: {hosts: x.example}\n", "", ""},
	{"services: {a: {command: a, port: 1}}\nenvironments:\n  p: {hosts: x.example}\n  q: {hosts: [x.example]}\n",
		"4:14: x.example leads to 'a' of 'p' already: write another host, or a path for one of the services", "open"},
	{"services: {a: {command: a, port: 1}}\nenvironments:\n  p: {hosts: x.example, strategy: {blue-green: {test_traffic_route: {hosts: x.example}}}}\n",
		"3:35: x.example leads to 'a' of 'p' already: write another host, or a path for one of the services", "open"},
	{"services: {api: {command: a, port: 1}}\nenvironments:\n  p: {hosts: {apy: x.example}, services: {web: {instances: 2}}}\n",
		"3:15: 'apy' is no service of this file; did you mean 'api'?\n3:43: 'web' is no service of this file: there are api", "open"},
	{"services: {a: {command: a, port: 1}}\nenvironments: {p: {hosts: ['http://x', X.example, 'x:80', y, y]}}\n",
		"2:28: 'http://x' is no host: write one such as shop.example.com or *.example.com, lower case, without scheme, port or path\n2:40: 'X.example' is no host: write one such as shop.example.com or *.example.com, lower case, without scheme, port or path\n2:51: 'x:80' is no host: write one such as shop.example.com or *.example.com, lower case, without scheme, port or path\n2:62: 'y' is already defined", ""},
	{"services: {a: {command: a, port: 1}}\nenvironments: {p: {target: kubernetes}, 'a b': {}, P: {}}\n",
		"2:28: 'kubernetes' is no target: write host, the machine of the server, or {runs-on: LABEL}, machines with penstock runner --deploy\n2:41: 'a b' is no name of an environment: write letters, digits, -, _ and ., at most 100\n2:52: 'P' is already defined", ""},
	{"services: {a: {command: a, port: 1}}\nenvironments: {p: {target: {runs-on: web}}, q: {target: {runs-on: [self-hosted, EU west]}}, r: {target: host}}\n", "", ""},
	{"services: {a: {command: a, port: 1}}\nenvironments: {p: {target: {}}, q: {target: {runs-on: []}}, r: {target: {runs-on: ['', 'a,b', ' c', {}]}}, s: {target: {labels: a, runs-on: a}}}\n",
		"2:28: a target that is not host says which machines it is: {runs-on: LABEL}\n2:55: write one to 100 labels of runners\n2:84: Text was expected\n2:88: 'a,b' is no label of a runner: labels have 1 to 256 bytes, no comma, and no blanks at their ends\n2:95: ' c' is no label of a runner: labels have 1 to 256 bytes, no comma, and no blanks at their ends\n2:101: Text was expected\n2:121: Unexpected value 'labels': there are runs-on", ""},
	{"services: {a: {command: a, port: 1}}\nenvironments: {p: {branch: ['[', '', '{a,b}'], variables: {A: 1}, secrets: A, services: {a: {env: {A: 2}}}}}\n",
		"2:29: '[' is no pattern of branches: write one such as main or release/*\n2:34: Text was expected\n2:38: '{a,b}' is no pattern of branches: write one such as main or release/*\n2:76: 'A' is a secret and a plain variable: write it once\n2:76: 'A' is a secret and a plain variable: write it once", ""},
	{"services: {a: {command: a, port: 1}}\nenvironments: {p: {watch: {for: 5m, errors: 101, restart: 1, minSample: 2}}}\n",
		"2:45: '101' is not between 0 and 100\n2:50: Unexpected value 'restart'; did you mean 'restarts'?\n2:62: Unexpected value 'minSample'; did you mean 'min-sample'?", ""},
	{of("bluegreen"), "2:30: 'bluegreen' is none of recreate, rolling, blue-green, canary; did you mean 'blue-green'?", ""},
	{of("{}"), "2:30: there is no strategy here: write one of recreate, rolling, blue-green, canary", ""},
	{of("{canary: , rolling: }"), "2:41: there is a strategy already, canary: write one", ""},
	{of("{cannary: }"), "2:31: Unexpected value 'cannary'; did you mean 'canary'?", ""},
	{of("{recreate: {batch: 1}}"), "2:42: Unexpected value 'batch': nothing stands here", ""},
	{of("{rolling: {batch: 0}}"), "2:48: '0' is not between 1 and 1000", ""},
	{of("{blue-green: {terminate_blue_instances_on_deployment_success: {action: KEEP, termination_wait_time_in_minutes: 2881}}}"),
		"2:101: 'KEEP' is none of TERMINATE, KEEP_ALIVE\n2:141: '2881' is not between 0 and 2880 minutes", ""},
	{of("{blue-green: {deployment_ready_option: {action_on_timeout: STOP_DEPLOYMENT, wait_time_in_minutes: 0}}}"),
		"2:128: STOP_DEPLOYMENT without a wait would stop every release: write how long somebody has to let it go on", ""},
	{of("{blue-green: {deployment_config_name: CodeDeployDefault.OneAtATime}}"),
		"2:68: 'CodeDeployDefault.OneAtATime' is none of CodeDeployDefault.ECSAllAtOnce, CodeDeployDefault.ECSCanary10Percent15Minutes, CodeDeployDefault.ECSCanary10Percent5Minutes, CodeDeployDefault.ECSLinear10PercentEvery1Minutes, CodeDeployDefault.ECSLinear10PercentEvery3Minutes; did you mean 'CodeDeployDefault.ECSAllAtOnce'?", ""},
	{of("{blue-green: {deployment_config_name: CodeDeployDefault.ECSAllAtOnce, traffic_routing_config: {type: AllAtOnce}}}"),
		"2:124: deployment_config_name says how traffic moves already: write one of them", ""},
	{of("{blue-green: {traffic_routing_config: {type: TimeBasedLinear, time_based_canary: {interval: 1}}}}"),
		"2:68: TimeBasedLinear needs time_based_linear\n2:111: time_based_canary needs interval and percentage\n2:111: time_based_canary is not of type TimeBasedLinear: leave it out", ""},
	{of("{blue-green: {traffic_routing_config: {}}}"), "2:68: there is no type: write AllAtOnce, TimeBasedCanary or TimeBasedLinear", ""},
	{of("{blue-green: {auto_rollback_configuration: {enabled: maybe, events: [DEPLOYMENT_FAILED]}}}"),
		"2:83: true or false was expected\n2:99: 'DEPLOYMENT_FAILED' is none of DEPLOYMENT_FAILURE, DEPLOYMENT_STOP_ON_ALARM, DEPLOYMENT_STOP_ON_REQUEST; did you mean 'DEPLOYMENT_FAILURE'?", ""},
	{of("{canary: {stepWeight: 10, stepWeights: [10]}}"), "2:69: stepWeight says how traffic moves already: write one of them", ""},
	{of("{canary: {stepweight: 10}}"), "2:40: Unexpected value 'stepweight'; did you mean 'stepWeight'?", ""},
	{of("{canary: {stepWeights: [10, 10, 5]}}"), "2:58: '10' is not more than the weight before: each step moves traffic on\n2:62: '5' is not more than the weight before: each step moves traffic on", ""},
	{of("{canary: {iterations: 3, stepWeight: 10}}"), "2:52: traffic moves by steps already: write iterations for a test that does not move it", ""},
	{of("{canary: {interval: 500ms, threshold: 0, maxWeight: 101, primaryReadyThreshold: -1}}"),
		"2:50: '500ms' is not between 1s and 24h\n2:68: '0' is not between 1 and 1000000\n2:82: '101' is not between 1 and 100\n2:110: '-1' is not between 0 and 100", ""},
	{of("{canary: {match: [{headers: {x: {exact: a}}}]}}"), "2:47: a test of what matches needs iterations, how often it is checked, such as iterations: 10", ""},
	{of("{canary: {iterations: 3, match: [{headers: {x: {exact: a, regex: b}, y: {regex: '('}, 'a b': {exact: c}}}, {}, {uri: {prefix: /}}]}}"),
		"2:77: a header is compared in one way: write exact, prefix, suffix or regex\n2:110: '(' is no regular expression (RE2): error parsing regexp: missing closing ): `(`\n2:116: 'a b' is no name of a header\n2:137: there are no headers to match: write headers\n2:141: there are no headers to match: write headers\n2:142: Unexpected value 'uri': there are headers, sourceLabels, gateways, name", ""},
	{of("{canary: {metrics: [{name: request-sucess-rate, thresholdRange: {min: 1}}, {name: x, query: q}, {thresholdRange: {}, query: q}]}}"),
		"2:57: 'request-sucess-rate' is not built in and has no query: write query or templateRef, or one of request-success-rate, request-duration; did you mean 'request-success-rate'?\n2:105: the metric has no limit: write thresholdRange, such as {min: 99}\n2:126: the metric has no name: write name\n2:143: there is neither min nor max: nothing would be checked", ""},
	{of("{canary: {metrics: [{name: request-duration, thresholdRange: {min: 2, max: 1}}]}}"), "2:97: '2' is more than max: no value would pass", "open"},
	{of("{canary: {metrics: [{name: a, threshold: 1, query: 'x{{ range 1 }}{{ end }}'}]}}"), "2:81: a query can not have \"{{range 1}}{{end}}\": write it out", "open"},
	{of("{canary: {metrics: [{name: a, threshold: 1, query: 'x{{ variables.b }}'}]}}"), "2:81: the query can not be resolved: query:1:4: executing \"query\" at <variables>: map has no entry for key \"b\"", "open"},
	{of("{canary: {metrics: [{name: a, threshold: 1, query: 'x{{ variables.b }}', templateVariables: {b: 1}}]}}"), "", ""},
	{of("{canary: {metrics: [{name: a, threshold: 1, templateRef: {name: a}}]}}"), "2:94: there is no file with the MetricTemplate 'a': name it under templates", "open"},
	{of("{canary: {metrics: [{name: a, threshold: 1, query: 'sum(rate(x[{{ interval }}])'}]}}"), "2:81: the query is no PromQL: 1:16: parse error: unclosed left parenthesis", "open"},
	{of("{canary: {metrics: [{name: a, threshold: 1, query: 'x[1m]'}]}}"), "2:81: the query gives no number for each series but a range vector: it needs a function such as rate()", "open"},
	{of("{canary: {metrics: [{name: a, threshold: .nan, query: q}]}}"), "2:71: '.nan' is no number", "no JSON"},
	{of("{canary: {webhooks: [{name: a, url: 'ftp://x', type: before, retries: 101}, {name: b}]}}"),
		"2:66: 'ftp://x' is no URL: write one such as http://checks.example.com/\n2:83: 'before' is none of confirm-rollout, pre-rollout, rollout, confirm-traffic-increase, confirm-promotion, post-rollout, rollback, event\n2:100: '101' is not between 0 and 100\n2:106: the webhook has no url: write it", ""},
	{of("{canary: {sessionAffinity: {cookieName: a, primaryCookieName: a}}}"), "2:92: both sides have the cookie 'a': give them different names", "open"},
	{of("{canary: {sessionAffinity: {}}}"), "2:57: the cookie has no name: write cookieName", ""},
	{of("{canary: {manifest: k8s/canary.yaml, interval: 1m}}"), "2:77: the manifest says how the canary goes: write interval there, or the fields here and no manifest", ""},
	{of("{canary: {manifest: ../canary.yaml}}"), "2:50: '../canary.yaml' is no file of the repository: write one such as k8s/canary.yaml", ""},
	{of("{canary: {manifest: }}"), "2:50: there is no file: write one such as k8s/canary.yaml", ""},
	{of("{canary: {manifest: [a.yaml, b/c.yaml]}}"), "", ""},
	{of("{canary: {noData: maybe, minSample: 0, inconclusiveWait: -1s, progressDeadlineSeconds: 0, skipAnalysis: true}}"),
		"2:48: 'maybe' is none of inconclusive, pass, fail\n2:66: '0' is not between 1 and 1000000\n2:87: '-1s' is not between 0s and 168h\n2:117: '0' is not between 1 and 604800", ""},
	{of("{canary: {metrics: [" + strings.Repeat("{name: request-duration, threshold: 1},", 101) + "]}}"), "2:49: there are more than 100 entries", ""},
}

// TestTarget reads where an environment runs.
func TestTarget(t *testing.T) {
	for text, want := range map[string][]string{"host": nil, "{runs-on: web}": {"web"}, "{runs-on: [self-hosted, EU west]}": {"self-hosted", "EU west"}} {
		c, err := Parse(Name, []byte("services: {a: {command: a, port: 1}}\nenvironments: {p: {target: "+text+"}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if e, _ := c.Environment("p"); !slices.Equal(e.RunsOn, want) {
			t.Errorf("%s: runs on %q, want %q", text, e.RunsOn, want)
		}
	}
}
