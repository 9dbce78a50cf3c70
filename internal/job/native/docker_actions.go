package native

import (
	"context"
	"crypto/rand"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// setupBuildx is docker/setup-buildx-action. There is always a builder.
type setupBuildx struct{}

func (setupBuildx) Main(ctx context.Context, s *Step) error {
	if err := s.needsDocker(ctx); err != nil {
		return err
	}
	if text := s.input("platforms"); text != "" {
		s.warnOfPlatforms(text)
	}
	s.info("Images are built on this machine's own layers: no builder needs to be set up")
	for name, value := range map[string]string{"name": "penstock", "driver": "penstock", "endpoint": "none", "status": "running", "flags": "", "platforms": s.dockerPlatform()} {
		s.output(name, value)
	}
	nodes, err := json.Marshal([]map[string]any{{"name": "penstock0", "endpoint": "none", "status": "running", "platforms": s.dockerPlatform()}})
	if err != nil {
		return err
	}
	s.output("nodes", string(nodes))
	return nil
}

// setupQEMU is docker/setup-qemu-action.
type setupQEMU struct{}

func (setupQEMU) Main(_ context.Context, s *Step) error {
	s.warning("Other platforms than %s can not be built here: nothing emulates them", s.dockerPlatform())
	s.output("platforms", s.dockerPlatform())
	return nil
}

// dockerPlatform is this machine's platform in Docker's words.
func (s *Step) dockerPlatform() string {
	switch arch := s.arch(); arch {
	case "x64":
		return "linux/amd64"
	default:
		return "linux/" + arch
	}
}

func (s *Step) warnOfPlatforms(list string) {
	for p := range strings.SplitSeq(list, ",") {
		if p = strings.TrimSpace(p); p != "" && p != s.dockerPlatform() {
			s.warning("%s can not be built here: nothing emulates it", p)
		}
	}
}

// needsDocker says so where there is no docker command: in containers of a job and without isolation.
func (s *Step) needsDocker(ctx context.Context) error {
	if _, err := s.answer(ctx, s.workspace(), "docker", "--version"); err != nil {
		return fmt.Errorf("Docker is required, and this machine has no docker command (jobs with `container:` and --sandbox none have none): %w", err)
	}
	return nil
}

// dockerLogin is docker/login-action. The credentials stay in memory, for the job.
type dockerLogin struct{}

func (dockerLogin) Main(ctx context.Context, s *Step) error {
	registry, user, password := s.input("registry"), s.input("username"), s.input("password")
	if user == "" && password == "" {
		s.warning("Username and password required: without them nothing can be sent to %s. What is pushed is kept on this machine", or(registry, "Docker Hub"))
		return nil
	}
	if user == "" || password == "" {
		return errors.New("Username and password required")
	}
	s.mask(password)
	s.save("registry", registry)
	args := []string{"docker", "login", "--password-stdin", "--username", user}
	if registry != "" {
		args = append(args, registry)
	}
	s.info("Logging into %s...", or(registry, "docker.io"))
	err := s.Sandbox.Exec(ctx, sandbox.Command{Args: args, Env: s.environ(), Dir: s.workspace(), Stdin: strings.NewReader(password), Stdout: s.Log, Stderr: s.Log})
	return commandError("docker", err)
}

// Post logs out.
func (dockerLogin) Post(ctx context.Context, s *Step) error {
	registry, ok := s.State["registry"]
	if !ok || !s.loose("logout") {
		return nil
	}
	args := []string{"docker", "logout"}
	if registry != "" {
		args = append(args, registry)
	}
	return s.run(ctx, s.workspace(), args...)
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// buildPush is docker/build-push-action.
type buildPush struct{}

func (buildPush) Main(ctx context.Context, s *Step) error {
	if err := s.needsDocker(ctx); err != nil {
		return err
	}
	temp := path.Join(s.Sandbox.Info().Files, "build-"+strings.ToLower(rand.Text()[:8]))
	args, env, err := s.buildArguments(ctx, temp)
	if err != nil {
		return err
	}
	if err := s.runEnv(ctx, s.workspace(), env, args...); err != nil {
		return fmt.Errorf("buildx failed with: %w", err)
	}
	return s.buildResults(ctx, temp)
}

// buildArguments makes the command line, as the original's context.ts does.
func (s *Step) buildArguments(ctx context.Context, temp string) (args, env []string, err error) {
	args = []string{"docker", "buildx", "build", "--iidfile", temp + "-iid", "--metadata-file", temp + "-metadata"}
	for _, list := range []struct{ input, flag string }{
		{"allow", "--allow"}, {"annotations", "--annotation"}, {"attests", "--attest"}, {"build-args", "--build-arg"}, {"build-contexts", "--build-context"},
		{"cache-from", "--cache-from"}, {"cache-to", "--cache-to"}, {"labels", "--label"}, {"no-cache-filters", "--no-cache-filter"}, {"outputs", "--output"},
		{"add-hosts", "--add-host"}, {"ssh", "--ssh"}, {"ulimit", "--ulimit"},
	} {
		for _, v := range s.lines(list.input) {
			args = append(args, list.flag, v)
		}
	}
	for _, tag := range s.commaList("tags") {
		args = append(args, "--tag", tag)
	}
	if platforms := s.commaList("platforms"); len(platforms) > 0 {
		args = append(args, "--platform", strings.Join(platforms, ","))
	}
	for _, one := range []string{"call", "cgroup-parent", "file", "network", "shm-size", "target", "builder", "provenance", "sbom"} {
		if v := s.input(one); v != "" {
			args = append(args, "--"+one+"="+v)
		}
	}
	for _, one := range []string{"load", "no-cache", "pull", "push"} {
		if s.loose(one) {
			args = append(args, "--"+one)
		}
	}
	secrets, env, err := s.buildSecrets(ctx, temp)
	if err != nil {
		return nil, nil, err
	}
	context := or(s.input("context"), ".")
	if strings.Contains(context, "://") && strings.Contains(context, ".git#") {
		s.info("The context is this job's checkout: %s is the same repository", context)
		context = "."
	}
	return append(append(args, secrets...), context), env, nil
}

// commaList is an input whose lines may hold several values apart by commas, quoted as in CSV.
func (s *Step) commaList(name string) []string {
	var out []string
	for _, line := range s.lines(name) {
		fields, err := csv.NewReader(strings.NewReader(line)).Read()
		if err != nil {
			fields = []string{line}
		}
		for _, f := range fields {
			if f = strings.TrimSpace(f); f != "" {
				out = append(out, f)
			}
		}
	}
	return out
}

// buildSecrets turns the three inputs with secrets into options. Values go into memory, never onto the disk.
func (s *Step) buildSecrets(ctx context.Context, temp string) (args, env []string, err error) {
	for i, line := range s.lines("secrets") {
		id, value, ok := strings.Cut(line, "=")
		if !ok || id == "" {
			s.warning("%s is not a valid secret", id)
			continue
		}
		file := fmt.Sprintf("%s-secret-%d", temp, i)
		if err := sandbox.WriteFile(ctx, s.Sandbox, file, []byte(value), 0o600); err != nil {
			return nil, nil, err
		}
		args = append(args, "--secret", "id="+id+",src="+file)
	}
	for _, line := range s.lines("secret-files") {
		id, file, _ := strings.Cut(line, "=")
		args = append(args, "--secret", "id="+id+",src="+s.abs(file))
	}
	for _, line := range s.lines("secret-envs") {
		id, name, _ := strings.Cut(line, "=")
		args = append(args, "--secret", "id="+id+",env="+name)
	}
	if token := s.input("github-token"); token != "" {
		env = append(env, "GIT_AUTH_TOKEN="+token)
		args = append(args, "--secret", "id=GIT_AUTH_TOKEN,env=GIT_AUTH_TOKEN")
	}
	return args, env, nil
}

// maxBuildFile bounds what docker build says of its result, bytes.
const maxBuildFile = 1 << 20

// buildResults sets the outputs.
func (s *Step) buildResults(ctx context.Context, temp string) error {
	id, err := sandbox.ReadFile(ctx, s.Sandbox, temp+"-iid", maxBuildFile)
	if err != nil {
		return err
	}
	metadata, err := sandbox.ReadFile(ctx, s.Sandbox, temp+"-metadata", maxBuildFile)
	if err != nil {
		return err
	}
	var m map[string]any
	if err := json.Unmarshal(metadata, &m); err != nil {
		return err
	}
	digest, _ := m["containerimage.digest"].(string)
	for _, out := range []struct{ title, name, value string }{
		{"ImageID", "imageid", string(id)}, {"Digest", "digest", digest}, {"Metadata", "metadata", string(metadata)},
	} {
		if err := s.group(out.title, func() error { s.info("%s", out.value); return nil }); err != nil {
			return err
		}
		s.output(out.name, out.value)
	}
	return nil
}
