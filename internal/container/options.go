package container

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/docker/go-connections/nat"
	units "github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Options are what docker create takes, as far as it means something here.
type Options struct {
	Name, Hostname string
	Entrypoint     []string // nil takes the image's
	Command        []string // nil takes the image's
	Env            []string // KEY=VALUE
	User, Dir      string
	Mounts         []sandbox.Mount
	Ports          []Port
	Expose         []int   // TCP ports that it says to serve on, besides Ports
	Health         *Health // nil takes the image's
	Limits         sandbox.Limits
	// Idle are the options that were given and have no effect here.
	Idle []string
}

// Port is a port of a container. Host is its number on the machine's loopback; 0 is the same.
type Port struct {
	Host, Container int
	Protocol        string // tcp, udp or sctp
}

// Health is how a container is asked whether it is well. Zero durations and retries take Docker's defaults.
type Health struct {
	Test        []string // CMD or CMD-SHELL first, as in an image; empty or NONE asks nothing
	Interval    time.Duration
	Timeout     time.Duration
	StartPeriod time.Duration
	Retries     int
}

// Volumes is where a container's named volumes are in the machine: each a directory below.
type Volumes string

// maxOptions bounds the arguments of one container.
const maxOptions = 1000

// idleFlags are docker's options that need no answer here: what they ask for is so in any case, or has no meaning in a
// container that shares its machine's network and ends with the job.
var (
	idleFlags = []string{"add-host", "annotation", "blkio-weight", "cap-add", "cap-drop", "cgroup-parent", "cgroupns", "cidfile", "cpu-period",
		"cpu-quota", "cpu-rt-period", "cpu-rt-runtime", "cpu-shares", "cpuset-cpus", "cpuset-mems", "device", "device-cgroup-rule", "dns", "dns-option",
		"dns-search", "domainname", "gpus", "group-add", "health-start-interval", "ip", "ip6", "ipc", "isolation", "kernel-memory", "label", "label-file",
		"link", "log-driver", "log-opt", "mac-address", "memory-reservation", "memory-swap", "memory-swappiness", "network-alias", "net-alias",
		"oom-score-adj", "pid", "platform", "pull", "restart", "runtime", "security-opt", "shm-size", "stop-signal", "stop-timeout", "storage-opt",
		"sysctl", "ulimit", "userns", "uts", "volume-driver", "volumes-from"}
	idleSwitches = []string{"disable-content-trust", "init", "interactive", "oom-kill-disable", "privileged", "publish-all", "quiet", "read-only", "rm", "tty", "use-api-socket"}
	shorthands   = map[string]string{"cpu-shares": "c", "label": "l", "interactive": "i", "tty": "t", "publish-all": "P"}
)

// ParseOptions reads the options of docker create: the `options:` of a job's container. The errors are pflag's, which
// are Docker's own: unknown flag: --nonsense.
func ParseOptions(args []string, volumes Volumes) (*Options, error) {
	o, f, err := ParseRun(args, volumes)
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("%q is no option", f.Arg(0))
	}
	return o, err
}

// ParseRun reads the options of docker run up to the image. The flags that it gives hold the rest of the arguments, and
// --detach, --rm, --interactive and --tty.
func ParseRun(args []string, volumes Volumes) (*Options, *pflag.FlagSet, error) {
	if len(args) > maxOptions {
		return nil, nil, fmt.Errorf("more than %d options", maxOptions)
	}
	o := &Options{}
	f := pflag.NewFlagSet("docker create", pflag.ContinueOnError)
	f.SetInterspersed(false)
	f.Usage = func() {}
	var entrypoint, memory, network string
	var publish, expose, volume, mount, tmpfs []string
	var pids int
	health, none := &Health{}, false
	var test string
	f.StringVar(&o.Name, "name", "", "")
	f.StringVarP(&o.Hostname, "hostname", "h", "", "")
	f.StringVar(&entrypoint, "entrypoint", "", "")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "")
	f.StringVarP(&o.User, "user", "u", "", "")
	f.StringVarP(&o.Dir, "workdir", "w", "", "")
	f.StringArrayVarP(&publish, "publish", "p", nil, "")
	f.StringArrayVar(&expose, "expose", nil, "")
	f.StringArrayVarP(&volume, "volume", "v", nil, "")
	f.StringArrayVar(&mount, "mount", nil, "")
	f.StringArrayVar(&tmpfs, "tmpfs", nil, "")
	f.StringVarP(&memory, "memory", "m", "", "")
	f.Float64Var(&o.Limits.CPUs, "cpus", 0, "")
	f.IntVar(&pids, "pids-limit", 0, "")
	f.StringVar(&network, "network", "", "")
	f.StringVar(&network, "net", "", "")
	f.StringVar(&test, "health-cmd", "", "")
	f.DurationVar(&health.Interval, "health-interval", 0, "")
	f.DurationVar(&health.Timeout, "health-timeout", 0, "")
	f.DurationVar(&health.StartPeriod, "health-start-period", 0, "")
	f.IntVar(&health.Retries, "health-retries", 0, "")
	f.BoolVar(&none, "no-healthcheck", false, "")
	for _, name := range idleFlags {
		f.StringArrayP(name, shorthands[name], nil, "")
	}
	f.StringArrayP("attach", "a", nil, "")
	for _, name := range idleSwitches {
		f.BoolP(name, shorthands[name], false, "")
	}
	f.BoolP("detach", "d", false, "")
	if err := f.Parse(args); err != nil {
		return nil, nil, err
	}
	f.Visit(func(flag *pflag.Flag) {
		if known(flag.Name, idleFlags, idleSwitches) {
			o.Idle = append(o.Idle, "--"+flag.Name)
		}
	})
	if f.Changed("entrypoint") {
		o.Entrypoint = []string{}
		if entrypoint != "" {
			o.Entrypoint = []string{entrypoint}
		}
	}
	if network != "" {
		return nil, nil, errors.New("--network is not supported: containers of a job share its network (GitHub does not take it either)")
	}
	o.Limits.Processes = max(pids, 0)
	if o.Limits.CPUs < 0 {
		return nil, nil, fmt.Errorf("invalid argument %v for --cpus", o.Limits.CPUs)
	}
	if none && test != "" {
		return nil, nil, errors.New("--no-healthcheck conflicts with --health-* options")
	}
	switch {
	case none:
		o.Health = &Health{Test: []string{"NONE"}}
	case test != "":
		health.Test = []string{"CMD-SHELL", test}
		o.Health = health
	case health.Interval != 0 || health.Timeout != 0 || health.StartPeriod != 0 || health.Retries != 0:
		o.Health = health // with the image's test
	}
	if health.Interval < 0 || health.Timeout < 0 || health.StartPeriod < 0 || health.Retries < 0 {
		return nil, nil, errors.New("--health-* options can not be negative")
	}
	if memory != "" {
		n, err := units.RAMInBytes(memory)
		if err != nil || n < 0 {
			return nil, nil, fmt.Errorf("invalid argument %q for --memory", memory)
		}
		o.Limits.Memory = n
	}
	return o, f, errors.Join(o.AddEnv(o.Env...), o.AddPorts(publish...), o.addExposed(expose), o.AddVolumes(volumes, volume...), o.addMounts(volumes, mount), o.addTmpfs(tmpfs))
}

func known(name string, lists ...[]string) bool {
	for _, list := range lists {
		for _, n := range list {
			if n == name {
				return true
			}
		}
	}
	return false
}

// AddEnv checks variables: each needs a name.
func (o *Options) AddEnv(env ...string) error {
	for _, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); name == "" || strings.ContainsRune(kv, 0) {
			return fmt.Errorf("invalid environment variable: %s", kv)
		}
	}
	return nil
}

// AddPorts adds ports by Docker's specification: 5432, 5433:5432, 127.0.0.1:5433:5432/tcp, 8000-8002:8000-8002.
func (o *Options) AddPorts(specs ...string) error {
	for _, spec := range specs {
		mappings, err := nat.ParsePortSpec(strings.TrimSpace(spec))
		if err != nil {
			return fmt.Errorf("port %q: %w", spec, err)
		}
		for _, m := range mappings {
			p := Port{Container: m.Port.Int(), Protocol: m.Port.Proto()}
			if m.Binding.HostPort != "" {
				host, _, err := nat.ParsePortRangeToInt(m.Binding.HostPort)
				if err != nil {
					return fmt.Errorf("port %q: %w", spec, err)
				}
				p.Host = host
			}
			if len(o.Ports) >= maxOptions {
				return fmt.Errorf("more than %d ports", maxOptions)
			}
			o.Ports = append(o.Ports, p)
		}
	}
	return nil
}

func (o *Options) addExposed(specs []string) error {
	for _, spec := range specs {
		proto, ports := nat.SplitProtoPort(spec)
		from, to, err := nat.ParsePortRangeToInt(ports)
		if err != nil || to-from >= maxOptions {
			return fmt.Errorf("invalid range format for --expose: %s", spec)
		}
		for p := from; p <= to && proto == "tcp"; p++ {
			o.Expose = append(o.Expose, p)
		}
	}
	return nil
}

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}$`)

// AddVolumes adds volumes by Docker's specification: NAME:/in/container, /of/machine:/in/container[:ro], /anonymous.
func (o *Options) AddVolumes(volumes Volumes, specs ...string) error {
	for _, spec := range specs {
		parts := strings.Split(strings.TrimSpace(spec), ":")
		m := sandbox.Mount{}
		switch {
		case len(parts) == 1:
			if !path.IsAbs(parts[0]) {
				return fmt.Errorf("volume %q: %q is no absolute path", spec, parts[0])
			}
			continue // a directory of the container itself: what is written there ends with it either way
		case len(parts) > 3:
			return fmt.Errorf("volume %q: invalid volume specification", spec)
		case len(parts) == 3:
			for _, mode := range strings.Split(parts[2], ",") {
				m.ReadOnly = m.ReadOnly || mode == "ro"
			}
		}
		if err := o.addSource(volumes, &m, parts[0], parts[1]); err != nil {
			return fmt.Errorf("volume %q: %w", spec, err)
		}
	}
	return nil
}

// addSource adds a mount of a directory of the machine, or of a named volume.
func (o *Options) addSource(volumes Volumes, m *sandbox.Mount, source, target string) error {
	m.Source, m.Target = source, path.Clean(target)
	if !path.IsAbs(target) || m.Target == "/" {
		return fmt.Errorf("%q is no absolute path below the root", target)
	}
	if !path.IsAbs(source) {
		if !volumeName.MatchString(source) {
			return fmt.Errorf("%q includes invalid characters for a local volume name; if you intended to pass a host directory, use absolute path", source)
		}
		m.Source = path.Join(string(volumes), source)
	}
	o.Mounts = append(o.Mounts, *m)
	return nil
}

// addMounts reads --mount type=bind,source=/a,target=/b,readonly.
func (o *Options) addMounts(volumes Volumes, specs []string) error {
	for _, spec := range specs {
		m, kind, source, target := sandbox.Mount{}, "volume", "", ""
		for _, field := range strings.Split(spec, ",") {
			key, value, _ := strings.Cut(field, "=")
			switch strings.ToLower(strings.TrimSpace(key)) {
			case "type":
				kind = value
			case "source", "src":
				source = value
			case "target", "dst", "destination":
				target = value
			case "readonly", "ro":
				m.ReadOnly = value == "" || value == "true" || value == "1"
			case "tmpfs-size":
				n, err := units.RAMInBytes(value)
				if err != nil {
					return fmt.Errorf("mount %q: invalid size %q", spec, value)
				}
				m.Size = n
			case "bind-propagation", "consistency", "tmpfs-mode", "volume-nocopy", "volume-driver", "volume-opt", "volume-label", "bind-create-src":
			default:
				return fmt.Errorf("mount %q: unknown option %q", spec, key)
			}
		}
		var err error
		switch {
		case kind == "tmpfs":
			m.Target = path.Clean(target)
			o.Mounts = append(o.Mounts, m)
		case kind != "bind" && kind != "volume":
			err = fmt.Errorf("mount type %q is not supported", kind)
		case source == "" && kind == "bind":
			err = errors.New("field source must not be empty")
		case source != "":
			err = o.addSource(volumes, &m, source, target)
		}
		if err != nil {
			return fmt.Errorf("mount %q: %w", spec, err)
		}
	}
	return nil
}

// addTmpfs reads --tmpfs /run:size=64m,mode=755.
func (o *Options) addTmpfs(specs []string) error {
	for _, spec := range specs {
		target, options, _ := strings.Cut(spec, ":")
		m := sandbox.Mount{Target: path.Clean(target)}
		if !path.IsAbs(target) || m.Target == "/" {
			return fmt.Errorf("tmpfs %q: no absolute path below the root", spec)
		}
		for _, option := range strings.Split(options, ",") {
			if size, ok := strings.CutPrefix(option, "size="); ok {
				n, err := units.RAMInBytes(size)
				if err != nil {
					return fmt.Errorf("tmpfs %q: invalid size %q", spec, size)
				}
				m.Size = n
			}
		}
		o.Mounts = append(o.Mounts, m)
	}
	return nil
}
