package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// filesDir is where an artifact's files are in a machine that is isolated. It is the working directory unless an image
// says otherwise.
const filesDir = "/app"

// program is a revision with all that it needs on this host. It is stored: it holds no secrets.
type program struct {
	Revision cd.Revision      `json:"revision"`
	Image    *container.Image `json:"image,omitempty"`
	// Of the artifact: Layer where machines have layers, else Archive, a tar file.
	Layer   layer.ID `json:"layer,omitempty"`
	Archive string   `json:"archive,omitempty"`
}

// layers are those that the program needs to be there.
func (p *program) layers() []layer.ID {
	var ids []layer.ID
	if p.Image != nil {
		ids = append(ids, p.Image.Layers...)
	}
	if p.Layer != "" {
		ids = append(ids, p.Layer)
	}
	return ids
}

// stand is an open machine with a program's files.
type stand struct {
	machine   sandbox.Sandbox
	container *container.Container // nil where no image is shown
	program   *program
	dir       string // the working directory; empty is the image's
	isolated  bool   // it has a network of its own
	before    map[int]bool
}

// openStand opens a machine for a program. name is its host name.
func openStand(ctx context.Context, provider sandbox.Provider, p *program, name string) (_ *stand, err error) {
	spec := sandbox.Spec{Name: name, Repo: name, Limits: sandbox.Limits{Memory: p.Revision.Memory, CPUs: p.Revision.CPUs}}
	m, err := provider.Open(ctx, spec)
	if err != nil {
		return nil, err
	}
	s := &stand{machine: m, program: p}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	_, s.isolated = m.(sandbox.Layered)
	if err := s.putFiles(ctx); err != nil {
		return nil, err
	}
	if p.Image != nil {
		if err := s.openImage(ctx, name); err != nil {
			return nil, err
		}
	}
	s.before = s.listening()
	return s, nil
}

// putFiles puts the artifact's files in place, or makes an empty directory.
func (s *stand) putFiles(ctx context.Context) error {
	p := s.program
	mounts, ok := s.machine.(sandbox.Layered)
	switch {
	case ok && p.Layer != "":
		s.dir = filesDir
		if err := mounts.Mount(ctx, filesDir, p.Layer); err != nil {
			return err
		}
	case ok && p.Image == nil:
		s.dir = filesDir
		if err := mounts.Mount(ctx, filesDir); err != nil {
			return err
		}
	case !ok:
		s.dir = s.machine.Info().Workspace
		if p.Archive == "" {
			break
		}
		archive, err := os.Open(p.Archive)
		if err != nil {
			return err
		}
		defer archive.Close()
		if err := s.machine.Put(ctx, s.dir, archive); err != nil {
			return err
		}
	}
	if p.Revision.Dir != "" {
		s.dir = path.Join(s.dir, path.Join("/", p.Revision.Dir))
	}
	return nil
}

// openImage opens the container that shows the program's image, with the artifact's files if there are any.
func (s *stand) openImage(ctx context.Context, name string) (err error) {
	o := &container.Options{Hostname: name}
	if s.program.Layer != "" {
		o.Mounts = []sandbox.Mount{{Target: filesDir, Source: filesDir}}
	}
	if s.container, err = container.Open(ctx, s.machine, name, *s.program.Image, o); err != nil {
		return err
	}
	dir := s.dir
	if dir == "" {
		dir = s.program.Image.Config.WorkingDir
	}
	if dir == "" || dir == "/" {
		return nil
	}
	return s.container.Sandbox().Put(ctx, dir, strings.NewReader("")) // made if it is missing, as Docker does
}

// command is what the program runs: as in docker run, a command takes the place of the image's own, behind its entrypoint.
func (p *program) command() ([]string, error) {
	args := p.Revision.Command
	if p.Image != nil {
		if len(args) == 0 {
			args = p.Image.Config.Cmd
		}
		args = append(slices.Clone(p.Image.Config.Entrypoint), args...)
	}
	if len(args) == 0 {
		return nil, errors.New("there is no command to run, and no image that names one")
	}
	return args, nil
}

// environ is the program's whole environment: the image's, the revision's, secrets, PORT.
func (s *stand) environ(secrets map[string]string, port int) []string {
	env := map[string]string{}
	if s.container == nil {
		info := s.machine.Info()
		env["PATH"], env["HOME"] = info.Path, info.Home
	}
	maps.Copy(env, s.program.Revision.Env)
	maps.Copy(env, secrets)
	if port > 0 {
		env["PORT"] = strconv.Itoa(port)
	}
	var list []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

// defaultGrace is how long a program may take to end where its revision does not say.
const defaultGrace = 10 * time.Second

func grace(r cd.Revision) time.Duration {
	if r.Grace > 0 {
		return r.Grace
	}
	return defaultGrace
}

// exec runs a command to its end. When ctx ends it gets SIGTERM, and SIGKILL after the revision's grace.
func (s *stand) exec(ctx context.Context, args, env []string, out io.Writer) error {
	c := sandbox.Command{Args: args, Env: env, Dir: s.dir, Stdout: out, Stderr: out, Stop: &sandbox.Ladder{Terminate: grace(s.program.Revision)}}
	if s.container != nil {
		return s.container.Exec(ctx, c)
	}
	return s.machine.Exec(ctx, c)
}

// dial connects to a port of the machine. The connection is a TCP socket of this process.
func (s *stand) dial(ctx context.Context, port int) (net.Conn, error) {
	if d, ok := s.machine.(sandbox.Dialer); ok {
		return d.Dial(ctx, port)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

func (s *stand) close() error {
	ctx := context.Background()
	var err error
	if s.container != nil {
		err = s.container.Close(ctx)
	}
	return errors.Join(err, s.machine.Close(ctx))
}

// ports are the TCP ports that something of the program listens on, sorted; none where that can not be known.
func (s *stand) ports() []int {
	var ports []int
	for port := range s.listening() {
		if !s.before[port] {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	return ports
}

// maxSockets bounds the bytes that are read of the machine's list of sockets.
const maxSockets = 1 << 20

// listening are the TCP ports of the machine's network that are listened on.
func (s *stand) listening() map[int]bool {
	r, ok := s.machine.(sandbox.Readable)
	if !ok || !s.isolated {
		return nil
	}
	dir, err := r.Open("/proc/1/net")
	if err != nil {
		return nil
	}
	defer dir.Close()
	ports := map[int]bool{}
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := dir.Open(name)
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(io.LimitReader(f, maxSockets))
		f.Close()
		for line := range strings.Lines(string(text)) {
			if port, ok := parseListening(line); ok {
				ports[port] = true
			}
		}
	}
	return ports
}

// parseListening reads one line of /proc/net/tcp: the port, if the socket listens.
func parseListening(line string) (port int, ok bool) {
	const listen = "0A"
	fields := strings.Fields(line)
	if len(fields) < 4 || fields[3] != listen {
		return 0, false
	}
	_, hex, ok := strings.Cut(fields[1], ":")
	n, err := strconv.ParseUint(hex, 16, 16)
	return int(n), ok && err == nil
}

// hostName makes a name one that a machine takes.
func hostName(service string, index int) string {
	name := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, service), "-")
	if name == "" {
		name = "service"
	}
	return fmt.Sprintf("%s-%d", strings.TrimRight(name[:min(len(name), 50)], "-"), index)
}
