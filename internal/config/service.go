package config

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-shellwords"
	"go.yaml.in/yaml/v4"

	"github.com/penstock-ci/penstock/internal/cd"
)

// Service is one entry of `services:`, with all defaults filled in.
type Service struct {
	Pos
	Name string
	// Where it comes from: Image or Build; neither is Command with Files.
	Image   string // as written; see ImageAt
	Build   *Build
	Command []string // empty is the image's own
	Files   Files    // what lies in the working directory of a Command without image

	Port   int // 0 is none: nothing is routed to it
	Health cd.Health
	// Env is what its processes are told beside PORT. Required are variables without which it is not released, Secrets
	// those whose values are secrets of the environment or the repository, by the same names.
	Env               map[string]string
	Required, Secrets []string

	Instances int
	Memory    int64   // bytes; 0 is unlimited
	CPUs      float64 // cores; 0 is unlimited
	// Hook is run once before the instances start; empty is none.
	Hook        []string
	HookTimeout time.Duration
	Grace       time.Duration // between SIGTERM and SIGKILL

	// Hosts are those of an environment; see Config.ServicesOf.
	Hosts           []string
	Path            string // prefix of what is routed to it: /api; empty is all
	StripPath       bool
	GRPC            bool
	Sticky          Sticky
	MaxBody         int64         // bytes; 0 is the proxy's
	ResponseTimeout time.Duration // 0 is the proxy's
}

// Build is an image that is built of the repository.
type Build struct {
	Context    string // directory of the repository, clean
	Dockerfile string // below Context, clean
	Target     string
	Args       map[string]string
}

// Files are what a command runs beside: those of Artifact, else the repository's at the commit, of its directory Dir.
type Files struct {
	Artifact string // name of an artifact of the commit's workflow run
	Dir      string // clean; . is all
}

// Sticky says by what a client is known again; neither is by nothing.
type Sticky struct {
	Cookie string
	MaxAge time.Duration // 0 is until the browser is closed
	Header string
}

// What services have that say nothing else.
const (
	defaultInterval    = time.Second
	defaultTimeout     = 5 * time.Second
	defaultRetries     = 30
	defaultHookTimeout = 10 * time.Minute
	defaultGrace       = 10 * time.Second
	defaultCookie      = "penstock"
)

const shaVariable = "${{ github.sha }}"

// ImageAt is the reference of the image of a commit: ${{ github.sha }} in it is sha.
func (s *Service) ImageAt(sha string) string { return strings.ReplaceAll(s.Image, shaVariable, sha) }

// Missing are the required variables and secrets that Env does not set and has does not know, in order.
func (s *Service) Missing(has func(name string) bool) []string {
	var missing []string
	for _, name := range slices.Concat(s.Required, s.Secrets) {
		if _, ok := s.Env[name]; !ok && !has(name) && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

var serviceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (r *reader) services(n *yaml.Node) []Service {
	var all []Service
	r.mapping(n, func(key, value *yaml.Node) {
		if !serviceName.MatchString(key.Value) {
			r.mistake(key, "'%s' is no name of a service: write lower case letters, digits and -, at most 63", key.Value)
			return
		}
		all = append(all, r.service(key, value))
	})
	return all
}

func (r *reader) service(key, n *yaml.Node) Service {
	s := Service{
		Pos: place(key), Name: key.Value, Files: Files{Dir: "."}, Instances: 1,
		Health: cd.Health{Interval: defaultInterval, Timeout: defaultTimeout, Retries: defaultRetries},
		Grace:  defaultGrace,
	}
	at := r.section(n, serviceFields(&s))
	if n.Kind != yaml.MappingNode && !isNull(n) {
		return s
	}
	image := at["image"] != nil || at["build"] != nil
	switch {
	case at["image"] != nil && at["build"] != nil:
		r.mistake(at["build"], "the service has an image already: write one of image and build")
	case !image && at["command"] == nil:
		r.mistake(key, "'%s' has nothing to run: write image, build or command", s.Name)
	}
	if at["artifact"] != nil && at["files"] != nil {
		r.mistake(at["files"], "the command has the files of an artifact already: write one of artifact and files")
	}
	for _, k := range []string{"artifact", "files"} {
		if at[k] != nil && image {
			r.mistake(at[k], "an image brings its own files: %s is for a command without one", k)
		}
	}
	if at["port"] == nil {
		for _, k := range []string{"path", "strip-path", "grpc", "sticky", "max-body", "response-timeout"} {
			if at[k] != nil {
				r.mistake(at[k], "%s is of requests, and '%s' gets none: it has no port. Write the one that it listens on, such as port: 8000", k, s.Name)
			}
		}
		if s.Health.Path != "" {
			r.mistake(at["health"], "'%s' can not be asked for %s: it has no port. Write the one that it listens on, such as port: 8000", s.Name, s.Health.Path)
		}
	}
	if at["strip-path"] != nil && at["path"] == nil {
		r.mistake(at["strip-path"], "there is no path to strip: write path, too")
	}
	r.disjoint(at["secrets"], s.Secrets, s.Env)
	return s
}

// disjoint refuses a secret that is a plain variable, too.
func (r *reader) disjoint(n *yaml.Node, secrets []string, env map[string]string) {
	for _, name := range secrets {
		if _, ok := env[name]; ok && n != nil {
			r.mistake(n, "'%s' is a secret and a plain variable: write it once", name)
		}
	}
}

func serviceFields(s *Service) []field {
	return []field{
		{"image", func(r *reader, n *yaml.Node) { s.Image = r.image(n) }},
		{"build", func(r *reader, n *yaml.Node) { s.Build = r.build(n) }},
		{"command", func(r *reader, n *yaml.Node) { s.Command = r.command(n) }},
		{"artifact", func(r *reader, n *yaml.Node) { s.Files.Artifact = r.artifact(n) }},
		{"files", func(r *reader, n *yaml.Node) { s.Files.Dir = r.directoryAt(n) }},
		{"port", func(r *reader, n *yaml.Node) { s.Port = r.integer(n, "a port such as 8000", 1, 65535) }},
		{"health", func(r *reader, n *yaml.Node) { r.health(n, &s.Health) }},
		{"env", func(r *reader, n *yaml.Node) { s.Env = r.variables(n) }},
		{"required", func(r *reader, n *yaml.Node) { s.Required = r.names(n) }},
		{"secrets", func(r *reader, n *yaml.Node) { s.Secrets = r.names(n) }},
		{"instances", func(r *reader, n *yaml.Node) { s.Instances = r.instances(n) }},
		{"resources", func(r *reader, n *yaml.Node) { r.resources(n, &s.Memory, &s.CPUs) }},
		{"pre-release", func(r *reader, n *yaml.Node) { s.Hook, s.HookTimeout = r.hook(n) }},
		{"stop-grace", func(r *reader, n *yaml.Node) { s.Grace = r.duration(n, 0, time.Hour) }},
		{"path", func(r *reader, n *yaml.Node) { s.Path = r.prefix(n) }},
		{"strip-path", func(r *reader, n *yaml.Node) { s.StripPath = r.boolean(n) }},
		{"grpc", func(r *reader, n *yaml.Node) { s.GRPC = r.boolean(n) }},
		{"sticky", func(r *reader, n *yaml.Node) { s.Sticky = r.sticky(n) }},
		{"max-body", func(r *reader, n *yaml.Node) { s.MaxBody = r.size(n, 1, mostMemory) }},
		{"response-timeout", func(r *reader, n *yaml.Node) { s.ResponseTimeout = r.duration(n, time.Second, 24*time.Hour) }},
	}
}

// image reads a reference in which the commit may stand.
func (r *reader) image(n *yaml.Node) string {
	text, ok := r.text(n)
	if !ok {
		return ""
	}
	plain := strings.ReplaceAll(text, shaVariable, strings.Repeat("0", 40))
	if strings.Contains(plain, "${{") {
		r.mistake(n, "in an image only %s is known, the commit that is released", shaVariable)
		return ""
	}
	if err := checkImage(plain); err != nil {
		r.mistake(n, "'%s' names no image: %v", text, err)
		return ""
	}
	return text
}

// build reads a context, or a mapping with one.
func (r *reader) build(n *yaml.Node) *Build {
	b := &Build{Dockerfile: "Dockerfile"}
	if n.Kind == yaml.ScalarNode && !isNull(n) {
		b.Context = r.directoryAt(n)
		return b
	}
	at := r.section(n, []field{
		{"context", func(r *reader, n *yaml.Node) { b.Context = r.directoryAt(n) }},
		{"dockerfile", func(r *reader, n *yaml.Node) { b.Dockerfile = r.pathAt(n, "Dockerfile") }},
		{"target", func(r *reader, n *yaml.Node) { b.Target, _ = r.text(n) }},
		{"args", func(r *reader, n *yaml.Node) { b.Args = r.variables(n) }},
	})
	if at["context"] == nil {
		b.Context = "."
	}
	return b
}

func (r *reader) artifact(n *yaml.Node) string {
	text, ok := r.text(n)
	if ok && (len(text) > 255 || strings.ContainsAny(text, "\\/\":<>|*?\r\n")) {
		r.mistake(n, "'%.40s' is no name of an artifact: write it as the workflow does that uploads it", text)
		return ""
	}
	return text
}

// shellText matches what only a shell understands: its characters, a variable or a word of its own at the beginning.
var shellText = regexp.MustCompile("[$`|&;<>()*?#~\\n]|\\[|^\\s*([A-Za-z_][A-Za-z0-9_]*=|[!{.:]\\s|(cd|case|eval|exec|exit|export|for|if|set|source|trap|ulimit|umask|until|while)\\s)")

// command reads words, or a text: split into words as a shell splits it, and given to `sh -c` if there is more of a
// shell's in it. So a simple command gets its signals itself and needs no shell in an image, and $PORT and && work.
func (r *reader) command(n *yaml.Node) []string {
	if n.Kind == yaml.SequenceNode {
		var words []string
		for _, e := range r.list(n) {
			if r.scalar(e, "a word of the command") && r.noNUL(e) {
				words = append(words, e.Value)
			}
		}
		if len(words) > 0 && words[0] == "" || len(n.Content) == 0 {
			r.mistake(n, "the command is empty: write what is to be run, such as python3 server.py")
			return nil
		}
		return words
	}
	text, ok := r.text(n)
	if !ok || !r.noNUL(n) {
		return nil
	}
	if shellText.MatchString(text) {
		return []string{"sh", "-c", text}
	}
	words, err := shellwords.Parse(text)
	if err != nil || len(words) == 0 || words[0] == "" {
		r.mistake(n, "'%.40s' can not be split into words: %v", text, cmp.Or(err, fmt.Errorf("there is none")))
		return nil
	}
	return words
}

func (r *reader) noNUL(n *yaml.Node) bool {
	if strings.ContainsRune(n.Value, 0) {
		r.mistake(n, "there is a NUL in the text, which no program can be given")
		return false
	}
	return true
}

// health reads a path, or a mapping with one.
func (r *reader) health(n *yaml.Node, h *cd.Health) {
	if n.Kind == yaml.ScalarNode && !isNull(n) {
		h.Path = r.healthPath(n)
		return
	}
	r.section(n, []field{
		{"path", func(r *reader, n *yaml.Node) { h.Path = r.healthPath(n) }},
		{"interval", func(r *reader, n *yaml.Node) { h.Interval = r.duration(n, 100*time.Millisecond, time.Hour) }},
		{"timeout", func(r *reader, n *yaml.Node) { h.Timeout = r.duration(n, 100*time.Millisecond, 10*time.Minute) }},
		{"retries", func(r *reader, n *yaml.Node) { h.Retries = r.integer(n, "a number of tries such as 30", 1, 10_000) }},
	})
}

var requestPath = regexp.MustCompile(`^/[!-~]*$`)

func (r *reader) healthPath(n *yaml.Node) string {
	text, ok := r.text(n)
	if ok && (!requestPath.MatchString(text) || strings.Contains(text, "#")) {
		r.mistake(n, "'%s' is no path: write one such as /health", text)
		return ""
	}
	return text
}

// prefix reads the path that is routed: whole segments.
func (r *reader) prefix(n *yaml.Node) string {
	text, ok := r.text(n)
	switch {
	case !ok:
		return ""
	case !requestPath.MatchString(text) || strings.ContainsAny(text, "?#*%") || path.Clean(text) != strings.TrimSuffix(text, "/") && text != "/":
		r.mistake(n, "'%s' is no prefix of paths: write one such as /api", text)
		return ""
	}
	return strings.TrimSuffix(text, "/")
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,254}$`)

// variables reads NAME: value. Names differ by case, values are single values as written.
func (r *reader) variables(n *yaml.Node) map[string]string {
	all := map[string]string{}
	r.entriesOf(n, false, func(key, value *yaml.Node) {
		if r.variable(key) && r.scalar(value, "a value ('' is the empty one)") && r.noNUL(value) {
			if strings.Contains(value.Value, "${{") {
				r.mistake(value, "${{ }} is not evaluated here: write the value, name a secret under secrets, or a variable of the environment under its variables")
				return
			}
			all[key.Value] = value.Value
		}
	})
	return all
}

func (r *reader) variable(n *yaml.Node) bool {
	switch {
	case !variableName.MatchString(n.Value):
		r.mistake(n, "'%s' is no name of a variable: write letters, digits and _", n.Value)
	case n.Value == "PORT":
		r.mistake(n, "PORT is the service's port already: write port")
	default:
		return true
	}
	return false
}

// names reads a list of names of variables, each once.
func (r *reader) names(n *yaml.Node) []string {
	var all []string
	for _, e := range r.list(n) {
		if _, ok := r.text(e); !ok || !r.variable(e) {
			continue
		}
		if slices.Contains(all, e.Value) {
			r.mistake(e, "'%s' is already defined", e.Value)
			continue
		}
		all = append(all, e.Value)
	}
	return all
}

func (r *reader) instances(n *yaml.Node) int {
	return r.integer(n, "a number of instances such as 2", 1, 1000)
}

func (r *reader) resources(n *yaml.Node, memory *int64, cpus *float64) {
	r.section(n, []field{
		{"memory", func(r *reader, n *yaml.Node) { *memory = r.memory(n) }},
		{"cpus", func(r *reader, n *yaml.Node) { *cpus = r.cpus(n) }},
	})
}

// hook reads a command, or a mapping with one.
func (r *reader) hook(n *yaml.Node) (command []string, timeout time.Duration) {
	if n.Kind != yaml.MappingNode {
		return r.command(n), defaultHookTimeout
	}
	timeout = defaultHookTimeout
	at := r.section(n, []field{
		{"command", func(r *reader, n *yaml.Node) { command = r.command(n) }},
		{"timeout", func(r *reader, n *yaml.Node) { timeout = r.duration(n, time.Second, 24*time.Hour) }},
	})
	if at["command"] == nil {
		r.mistake(n, "there is nothing to run: write command")
	}
	return command, timeout
}

var tokenText = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$") // names of headers and cookies

// sticky reads true, or a mapping with a cookie or a header.
func (r *reader) sticky(n *yaml.Node) Sticky {
	if n.Kind == yaml.ScalarNode && !isNull(n) {
		if r.boolean(n) {
			return Sticky{Cookie: defaultCookie}
		}
		return Sticky{}
	}
	var s Sticky
	at := r.section(n, []field{
		{"cookie", func(r *reader, n *yaml.Node) { s.Cookie = r.token(n) }},
		{"max-age", func(r *reader, n *yaml.Node) { s.MaxAge = r.duration(n, time.Second, 400*24*time.Hour) }},
		{"header", func(r *reader, n *yaml.Node) { s.Header = r.token(n) }},
	})
	switch {
	case at["cookie"] != nil && at["header"] != nil:
		r.mistake(at["header"], "a client is known by a cookie or by a header: write one of them")
	case at["max-age"] != nil && at["header"] != nil:
		r.mistake(at["max-age"], "a header has no age: leave max-age out")
	case at["header"] == nil && s.Cookie == "":
		s.Cookie = defaultCookie
	}
	return s
}

func (r *reader) token(n *yaml.Node) string {
	text, ok := r.text(n)
	if ok && !tokenText.MatchString(text) {
		r.mistake(n, "'%.40s' is no name of a cookie or header: write letters, digits and -", text)
		return ""
	}
	return text
}

// merge gives s as the environment has it. What it says in the clear is none of a service's secrets there, and the reverse.
func (s Service) merge(e *Environment, o override) Service {
	env := map[string]string{}
	for _, more := range []map[string]string{s.Env, e.Variables, o.env} {
		maps.Copy(env, more)
	}
	for _, name := range e.Secrets {
		delete(env, name)
	}
	s.Env, s.Required = env, union(s.Required, e.Required)
	s.Secrets = slices.DeleteFunc(union(s.Secrets, e.Secrets), func(name string) bool { _, plain := env[name]; return plain })
	s.Instances, s.Memory, s.CPUs = cmp.Or(o.instances, s.Instances), cmp.Or(o.memory, s.Memory), cmp.Or(o.cpus, s.CPUs)
	return s
}

func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(all, x) {
			all = append(all, x)
		}
	}
	return all
}
