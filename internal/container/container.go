// Package container runs containers beside a job as Docker would: an image's configuration and the options of docker
// create become a process in a sandbox.Container, its environment, its health, its ports and its output.
//
// It knows images, options and machines. It never knows workflows, and never fetches anything but images.
package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// Image is an image that is ready to be run.
type Image struct {
	sandbox.Image
	Config v1.Config
}

// Container is a container whose process was started.
type Container struct {
	name   string
	sb     sandbox.Sandbox
	image  Image
	o      *Options
	env    []string
	output *tail
	ports  []io.Closer // listeners of mapped ports

	began time.Time
	end   context.CancelFunc
	done  chan struct{}
	err   error // of the process; valid when done is closed
}

// maxOutput bounds what is kept of a container's output, bytes: the latest.
const maxOutput = 1 << 20

// Open prepares a container beside a machine: Run starts its process. The machine must be a sandbox.Hosting, else the
// error wraps sandbox.ErrNoImages. name is its host name unless o has one.
func Open(ctx context.Context, m sandbox.Sandbox, name string, image Image, o *Options) (*Container, error) {
	hosting, ok := m.(sandbox.Hosting)
	if !ok {
		return nil, fmt.Errorf("start %s: %w", image.Ref, sandbox.ErrNoImages)
	}
	c := &Container{name: name, image: image, o: o, output: &tail{max: maxOutput}, done: make(chan struct{})}
	if o.Hostname != "" {
		name = o.Hostname
	}
	var err error
	c.sb, err = hosting.Contain(ctx, sandbox.Container{Name: hostName(name), Image: image.Image, Mounts: o.Mounts, Limits: o.Limits})
	if err != nil {
		return nil, err
	}
	c.env = merge(image.Config.Env, o.Env)
	if err := c.openPorts(ctx, m); err != nil {
		return nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// hostName makes a name one that sandbox.Container takes.
func hostName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
	if name = strings.Trim(name[:min(len(name), 60)], "-"); name == "" {
		return "container"
	}
	return name
}

// merge puts environments together: what comes later wins.
func merge(envs ...[]string) []string {
	all := map[string]string{}
	for _, env := range envs {
		for _, kv := range env {
			k, v, _ := strings.Cut(kv, "=")
			all[k] = v
		}
	}
	out := make([]string, 0, len(all))
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out = append(out, k+"="+all[k])
	}
	return out
}

// command is the container's process: an entrypoint that is given takes the image's command away, as in docker run.
func (c *Container) command() ([]string, error) {
	entrypoint, command := c.image.Config.Entrypoint, c.image.Config.Cmd
	if c.o.Entrypoint != nil {
		entrypoint, command = c.o.Entrypoint, nil
	}
	if c.o.Command != nil {
		command = c.o.Command
	}
	args := append(slices.Clone(entrypoint), command...)
	if len(args) == 0 {
		return nil, fmt.Errorf("%s names no command to run, and none was given", c.image.Ref)
	}
	return args, nil
}

// process is a command in the container with what all of its commands have.
func (c *Container) process(args []string) sandbox.Command {
	p := sandbox.Command{Args: args, Env: c.env, Dir: c.image.Config.WorkingDir, User: c.image.Config.User}
	if c.o.Dir != "" {
		p.Dir = c.o.Dir
	}
	if c.o.User != "" {
		p.User = c.o.User
	}
	return p
}

// Run runs the container's process to its end, with its input and output, and gives its *sandbox.ExitError if it failed.
// The directory it begins in is made if it is missing, as Docker does.
func (c *Container) Run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	args, err := c.command()
	if err != nil {
		return err
	}
	p := c.process(args)
	p.Stdin, p.Stdout, p.Stderr, p.Stop = stdin, stdout, stderr, &stopLadder
	if p.Dir != "" && p.Dir != "/" {
		if err := c.makeDir(ctx, p); err != nil {
			return err
		}
	}
	return c.sb.Exec(ctx, p)
}

// makeDir makes the directory that the process begins in: root's, as Docker does, but the user's for a server of the
// machine's own.
func (c *Container) makeDir(ctx context.Context, p sandbox.Command) error {
	if b, ok := c.sb.(sandbox.Builder); ok && c.image.Ref == "" {
		own := agent.FileAction{Kind: agent.FileMkdir, Path: p.Dir, Mode: 0o755, Owner: p.User, Time: -1, Parents: true}
		if b.Files(ctx, []agent.FileAction{own}) == nil {
			return nil // else nobody but root is here: then root is the user
		}
	}
	return c.sb.Put(ctx, p.Dir, strings.NewReader(""))
}

// Start begins the container's process; its output is kept for Output. The process ends with Close.
func (c *Container) Start(ctx context.Context) {
	ctx, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.began = time.Now()
	go func() {
		defer close(c.done)
		c.err = c.Run(ctx, nil, c.output, c.output)
	}()
}

// Done is closed when the started process has ended; Err is valid then: nil for a success.
func (c *Container) Done() <-chan struct{} { return c.done }

// Err says how the started process ended.
func (c *Container) Err() error { return c.err }

// Output is the latest of what the started process has written; cut says that there was more before.
func (c *Container) Output() (text []byte, cut bool) { return c.output.text() }

// Exec runs another command in the container, with the container's environment, directory and user where cmd says none.
func (c *Container) Exec(ctx context.Context, cmd sandbox.Command) error {
	p := c.process(cmd.Args)
	p.Env = merge(p.Env, cmd.Env)
	p.Stdin, p.Stdout, p.Stderr, p.TTY, p.Stop = cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.TTY, cmd.Stop
	if cmd.Dir != "" {
		p.Dir = cmd.Dir
	}
	if cmd.User != "" {
		p.User = cmd.User
	}
	return c.sb.Exec(ctx, p)
}

// Sandbox is the container's own machine, for its files.
func (c *Container) Sandbox() sandbox.Sandbox { return c.sb }

// stopLadder is how a process is stopped whose disk is to be kept: some write to it when they are asked to end.
var stopLadder = sandbox.Ladder{Interrupt: 2 * time.Second, Terminate: 2 * time.Second}

// Stop ends the started process, asking it first, and gives what the container's disk has beyond the image as a layer;
// empty if that is nothing or can not be had.
func (c *Container) Stop(ctx context.Context) (layer.ID, error) {
	c.Halt()
	changed, ok := c.sb.(sandbox.Changed)
	if !ok {
		return "", nil
	}
	return changed.Changes(ctx)
}

// Halt ends the started process, asking it first.
func (c *Container) Halt() {
	if c.end != nil {
		c.end()
		<-c.done
	}
}

// Close ends everything in the container and discards its disk. It is idempotent.
func (c *Container) Close(ctx context.Context) error {
	for _, l := range c.ports {
		l.Close()
	}
	err := c.sb.Close(ctx)
	c.Halt()
	return err
}

// openPorts maps ports of the machine's loopback to those of the container that have another number.
func (c *Container) openPorts(ctx context.Context, m sandbox.Sandbox) error {
	for _, p := range c.o.Ports {
		if p.Host == p.Container || p.Host == 0 {
			continue // they share the network: it answers there by itself
		}
		if p.Protocol != "tcp" {
			return fmt.Errorf("port %d:%d/%s: only TCP ports can be given another number", p.Host, p.Container, p.Protocol)
		}
		network, ok := m.(interface {
			sandbox.Networked
			sandbox.Dialer
		})
		if !ok {
			return fmt.Errorf("port %d:%d: this machine's ports can not be mapped", p.Host, p.Container)
		}
		l, err := network.Listen(ctx, p.Host)
		if err != nil {
			return fmt.Errorf("port %d is taken: %w", p.Host, err)
		}
		c.ports = append(c.ports, forward(l, func() (net.Conn, error) { return network.Dial(context.WithoutCancel(ctx), p.Container) }))
	}
	return nil
}

// maxForwarded bounds the connections of one mapped port.
const maxForwarded = 1024

// forwarder carries connections from a listener to where dial leads.
type forwarder struct {
	l    net.Listener
	dial func() (net.Conn, error)
	mu   sync.Mutex
	open map[net.Conn]bool // nil when closed
	all  sync.WaitGroup
}

func forward(l net.Listener, dial func() (net.Conn, error)) *forwarder {
	f := &forwarder{l: l, dial: dial, open: map[net.Conn]bool{}}
	slots := make(chan struct{}, maxForwarded)
	f.all.Go(func() {
		for {
			slots <- struct{}{}
			in, err := l.Accept()
			if err != nil {
				return
			}
			f.all.Go(func() { f.carry(in); <-slots })
		}
	})
	return f
}

func (f *forwarder) carry(in net.Conn) {
	defer in.Close()
	out, err := f.dial()
	if err != nil {
		return
	}
	defer out.Close()
	if !f.note(in, out) {
		return
	}
	defer f.forget(in, out)
	var back sync.WaitGroup
	back.Go(func() { pour(in, out) })
	pour(out, in)
	back.Wait()
}

// pour copies one direction and passes its end on.
func pour(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

func (f *forwarder) note(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		return false
	}
	for _, c := range conns {
		f.open[c] = true
	}
	return true
}

func (f *forwarder) forget(conns ...net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		delete(f.open, c)
	}
}

// Close ends all connections.
func (f *forwarder) Close() error {
	err := f.l.Close()
	f.mu.Lock()
	for c := range f.open {
		c.Close()
	}
	f.open = nil
	f.mu.Unlock()
	f.all.Wait()
	return err
}

// tail keeps the latest of what is written to it.
type tail struct {
	mu  sync.Mutex
	max int
	buf []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.max; over > t.max/4 { // moved seldom, so that a chatty server costs little
		t.buf = append(t.buf[:0], t.buf[over:]...)
		t.cut = true
	}
	return len(p), nil
}

func (t *tail) text() ([]byte, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := t.buf
	if over := len(text) - t.max; over > 0 {
		text = text[over:]
	}
	return slices.Clone(text), t.cut || len(text) < len(t.buf)
}
