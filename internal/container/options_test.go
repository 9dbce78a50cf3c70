package container

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

func TestParseOptions(t *testing.T) {
	o, err := ParseOptions([]string{
		"--health-cmd", "pg_isready -U x", "--health-interval=10s", "--health-timeout", "5s", "--health-retries", "5", "--health-start-period", "1m", "--memory", "512m", "--cpus", "1.5",
		"-e", "A=b=c", "--tmpfs", "/run:size=1m", "--ulimit", "nofile=1024:1024", "--entrypoint", "/bin/x", "-u", "1:2", "-w", "/w", "-h", "box", "--name", "n", "-p", "127.0.0.1:8080:80", "-p", "53/udp",
		"--expose", "9000-9002", "-v", "data:/data", "-v", "/a:/b:ro", "-v", "/anonymous", "--mount", "type=bind,src=/c,dst=/d,readonly", "--privileged", "--pids-limit", "7", "--label", "x=y",
	}, "/volumes")
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]any{
		"health":  {fmt.Sprint(*o.Health), fmt.Sprint(Health{[]string{"CMD-SHELL", "pg_isready -U x"}, 10 * time.Second, 5 * time.Second, time.Minute, 5})},
		"limits":  {o.Limits, sandbox.Limits{Memory: 512 << 20, CPUs: 1.5, Processes: 7}},
		"env":     {fmt.Sprint(o.Env), "[A=b=c]"},
		"ports":   {fmt.Sprint(o.Ports), "[{8080 80 tcp} {0 53 udp}]"},
		"exposed": {fmt.Sprint(o.Expose), "[9000 9001 9002]"},
		"who":     {o.User + o.Dir + o.Hostname + o.Name + fmt.Sprint(o.Entrypoint), "1:2/wboxn[/bin/x]"},
		"mounts": {fmt.Sprintf("%+v", o.Mounts), fmt.Sprintf("%+v", []sandbox.Mount{
			{Target: "/data", Source: "/volumes/data"}, {Target: "/b", Source: "/a", ReadOnly: true}, {Target: "/d", Source: "/c", ReadOnly: true}, {Target: "/run", Size: 1 << 20}})},
		"idle": {fmt.Sprint(o.Idle), "[--label --privileged --ulimit]"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", what, pair[0], pair[1])
		}
	}
	for _, test := range []struct{ args, want string }{
		{"--nonsense x", "unknown flag: --nonsense"}, {"-p x", `port "x"`}, {"-p 70000", `port "70000"`}, {"-v relative", "is no absolute path"}, {"-v a/b:/c", "invalid characters for a local volume name"},
		{"-v x:/", "below the root"}, {"--memory lots", `invalid argument "lots" for --memory`}, {"--network host", "--network is not supported"}, {"-e =x", "invalid environment variable"},
		{"--tmpfs x", "no absolute path"}, {"--mount type=npipe,src=a,dst=/b", `mount type "npipe"`}, {"--mount what=x", "unknown option"}, {"--health-interval -1s", "can not be negative"},
		{"--no-healthcheck --health-cmd x", "conflicts"}, {"image", `"image" is no option`}, {"--expose 1-99999999", "invalid range"},
	} {
		if _, err := ParseOptions(strings.Fields(test.args), ""); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.args, err, test.want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for ref, want := range map[string]string{
		"postgres:15-alpine": "postgres 15-alpine", "docker.io/library/redis": "redis latest", "bitnami/redis:7.2": "redis 7.2", "ghcr.io/o/postgres:15": "ghcr.io/o/postgres 15", "Not An Image": " ",
	} {
		if name, tag := kindOf(ref); name+" "+tag != want {
			t.Errorf("%s: got %q %q, want %q", ref, name, tag, want)
		}
	}
	for version, want := range map[string]string{"15-alpine": "15", "v7.2": "7", "latest": "", "": ""} {
		if got := major(version); got != want {
			t.Errorf("%s: got %q, want %q", version, got, want)
		}
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("--health-cmd x -p 80:80 -v a:/b --mount type=tmpfs,dst=/x --tmpfs /y:size=1g -m 1g")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := ParseOptions(strings.Fields(text), "/volumes")
		if err != nil {
			return
		}
		if slices.ContainsFunc(o.Mounts, func(m sandbox.Mount) bool { return !strings.HasPrefix(m.Target, "/") || m.Target == "/" }) || len(o.Ports) > maxOptions {
			t.Errorf("%q: %+v", text, o)
		}
	})
}
