package docker

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/pflag"

	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Service answers the docker commands of one job. The fields must not change after Serve.
type Service struct {
	Images  *image.Store
	Builder *build.Builder
	// Machine is the job's.
	Machine sandbox.Sandbox
	// Send pushes images to the registries that they are named after. Otherwise they are kept here, and Kept says so;
	// registries on loopback are always spoken to.
	Send bool

	mu         sync.Mutex
	logins     map[string]image.Credentials
	containers []*running
	names      map[string]bool // of networks and volumes: "network x"
	kept       []string
}

// running is a container of docker run.
type running struct {
	id, name, image string
	c               *container.Container
	o               *container.Options
	remove          bool
}

// Kept are the images that were pushed and stay here, by their full names.
func (s *Service) Kept() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kept)
}

// maxCalls bounds the docker commands of a job that run at once.
const maxCalls = 64

// Serve answers until ctx ends, and then ends what runs.
func (s *Service) Serve(ctx context.Context, l net.Listener) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var calls sync.WaitGroup
	slots := make(chan struct{}, maxCalls)
	for {
		conn, err := l.Accept()
		if err != nil {
			break
		}
		slots <- struct{}{}
		calls.Go(func() {
			defer func() { <-slots }()
			s.answer(ctx, conn)
		})
	}
	calls.Wait()
	s.mu.Lock()
	left := s.containers
	s.mu.Unlock()
	for _, r := range left {
		r.c.Close(context.WithoutCancel(ctx))
	}
}

// call is one docker command.
type call struct {
	*Service
	ctx    context.Context
	req    request
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

func (s *Service) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := bufio.NewReader(conn)
	out := &frames{to: conn}
	line, err := readLine(in)
	var req request
	if err == nil {
		err = json.Unmarshal(line, &req)
	}
	if err != nil || !path.IsAbs(req.Dir) {
		return // nobody who speaks our language
	}
	c := &call{Service: s, ctx: ctx, req: req, stdin: in, stdout: &stream{out, frameStdout}, stderr: &stream{out, frameStderr}}
	code := c.run(req.Args)
	out.exit(code)
}

func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) || len(line) > maxRequest {
			return nil, errFrame
		}
	}
}

// frames writes frames, one at a time.
type frames struct {
	mu sync.Mutex
	to io.Writer
}

func (f *frames) write(kind byte, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(data)))
	_, err := f.to.Write(append(head, data...))
	return err
}

func (f *frames) exit(code int) {
	_ = f.write(frameExit, binary.BigEndian.AppendUint32(nil, uint32(int32(code))))
}

type stream struct {
	f    *frames
	kind byte
}

func (s *stream) Write(p []byte) (int, error) {
	for part := range slices.Chunk(p, maxFrame) {
		if err := s.f.write(s.kind, part); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// exitCode is an error that has been told already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usage is a mistake in the command line, told as Docker does.
type usage struct {
	command string
	err     error
}

func (u *usage) Error() string {
	return fmt.Sprintf("%v\nSee 'docker %s --help'.", u.err, u.command)
}

// run carries out a command and gives its exit code.
func (c *call) run(args []string) int {
	err := c.dispatch(args)
	var code exitCode
	var exit *sandbox.ExitError
	var bad *usage
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &bad):
		fmt.Fprintln(c.stderr, err)
		return 125
	}
	fmt.Fprintln(c.stderr, "Error:", strings.TrimPrefix(err.Error(), "Error: "))
	return 1
}

// commands are what there is, by their words. Those of management commands (docker image ls) come first.
func (c *call) commands() map[string]func(args []string) error {
	m := map[string]func([]string) error{
		"build": c.build, "push": c.push, "pull": c.pull, "tag": c.tag, "images": c.images, "rmi": c.rmi, "inspect": c.inspect, "save": c.save, "load": c.load,
		"login": c.login, "logout": c.logout, "run": c.runContainer, "ps": c.ps, "logs": c.logs, "stop": c.stop, "kill": c.stop, "rm": c.rm, "wait": c.wait,
		"exec": c.exec, "port": c.port, "version": c.version, "info": c.info, "network": c.remember("network"), "volume": c.remember("volume"),
		"history": c.history,
	}
	for word, name := range map[string]string{
		"image build": "build", "builder build": "build", "buildx build": "build", "image push": "push", "image pull": "pull", "image tag": "tag", "image ls": "images",
		"image list": "images", "image rm": "rmi", "image inspect": "inspect", "image save": "save", "image load": "load", "image history": "history",
		"container run": "run", "container ls": "ps", "container ps": "ps", "container logs": "logs", "container stop": "stop", "container kill": "stop",
		"container rm": "rm", "container wait": "wait", "container exec": "exec", "container inspect": "inspect", "container port": "port", "system info": "info",
	} {
		m[word] = m[name]
	}
	m["buildx version"] = c.say("github.com/docker/buildx v0.0.0-penstock penstock\n")
	m["buildx create"], m["buildx inspect"], m["buildx ls"] = c.buildxCreate, c.buildxInspect, c.buildxInspect
	m["buildx imagetools"] = c.imagetools
	for _, quiet := range []string{"buildx use", "buildx rm", "buildx stop", "buildx install", "buildx prune", "buildx du", "builder prune", "system prune", "image prune", "container prune", "context use"} {
		m[quiet] = c.say("")
	}
	m["context ls"] = c.say("NAME        DESCRIPTION   DOCKER ENDPOINT\ndefault *   Penstock      none\n")
	m["context show"] = c.say("default\n")
	return m
}

// say is a command that only prints.
func (c *call) say(text string) func([]string) error {
	return func([]string) error {
		_, err := io.WriteString(c.stdout, text)
		return err
	}
}

// elsewhere are commands that are not here, with the way out.
var elsewhere = map[string]string{
	"compose": "put the services of the compose file under `services:` of the job",
	"swarm":   "there is one machine", "stack": "there is one machine", "service": "there is one machine",
	"buildx bake": "call docker buildx build for each target",
}

// dispatch finds the command that the arguments begin with.
func (c *call) dispatch(args []string) error {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") { // options before the command: none of them means anything here
		switch name, _, given := strings.Cut(args[0], "="); name {
		case "-v", "--version":
			return c.say("Docker version 0.0.0-penstock, build penstock\n")(nil)
		case "--help", "-h":
			return c.help()
		case "-c", "--context", "-H", "--host", "--config", "-l", "--log-level":
			if !given && len(args) > 1 {
				args = args[1:]
			}
		}
		args = args[1:]
	}
	if len(args) == 0 || args[0] == "help" {
		return c.help()
	}
	commands := c.commands()
	for words := min(2, len(args)); words > 0; words-- {
		name := strings.Join(args[:words], " ")
		if do, ok := commands[name]; ok {
			return do(args[words:])
		}
		if way, ok := elsewhere[name]; ok {
			return fmt.Errorf("docker %s is not supported here (Penstock has no Docker daemon): %s", name, way)
		}
	}
	return fmt.Errorf("'%s' is not a docker command here (this is Penstock's, without a daemon).\nSee 'docker --help'", strings.Join(args[:min(2, len(args))], " "))
}

func (c *call) help() error {
	var names []string
	for name := range c.commands() {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(c.stdout, "Usage: docker COMMAND\n\nPenstock's docker command: builds, keeps and runs images without a daemon.\n\nCommands:\n")
	for _, name := range names {
		fmt.Fprintf(c.stdout, "  %s\n", name)
	}
	return nil
}

// flags parses the options of a command. Unknown ones are told as Docker tells them.
func (c *call) flags(command string, args []string, declare func(f *pflag.FlagSet)) (*pflag.FlagSet, error) {
	f := pflag.NewFlagSet(command, pflag.ContinueOnError)
	f.Usage = func() {}
	f.SetOutput(io.Discard)
	declare(f)
	err := f.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(c.stdout, "Usage: docker %s [OPTIONS]\n\nOptions:\n%s", command, f.FlagUsages())
		return nil, exitCode(0)
	}
	if err != nil {
		return nil, &usage{command, err}
	}
	return f, nil
}

// abs is a path of the machine, seen from where the command was called.
func (c *call) abs(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(c.req.Dir, name)
}
