package docker

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// maxContainers bounds the containers of a job.
const maxContainers = 100

// volumes is where named volumes are in the machine.
func (c *call) volumes() container.Volumes {
	return container.Volumes(path.Join(c.Machine.Info().Temp, "_volumes"))
}

// runContainer is docker run.
func (c *call) runContainer(args []string) error {
	o, f, err := container.ParseRun(c.withEnvFiles(args), c.volumes())
	if err != nil {
		return &usage{"run", err}
	}
	if f.NArg() == 0 {
		return &usage{"run", errors.New("\"docker run\" requires at least 1 argument")}
	}
	for i, kv := range o.Env {
		if !strings.Contains(kv, "=") {
			o.Env[i] = kv + "=" + c.req.Env[kv]
		}
	}
	for i, m := range o.Mounts {
		if m.Source != "" {
			o.Mounts[i].Source = c.abs(m.Source)
		}
	}
	if f.NArg() > 1 {
		o.Command = f.Args()[1:]
	}
	detach, _ := f.GetBool("detach")
	remove, _ := f.GetBool("rm")
	interactive, _ := f.GetBool("interactive")
	images := container.Images{Store: c.Images}
	full, err := image.FullName(f.Arg(0))
	if err != nil {
		return err
	}
	login := c.credentials(domain(full))
	img, err := images.Image(c.ctx, f.Arg(0), login, io.Discard)
	if err != nil {
		return fmt.Errorf("Unable to find image '%s' locally: %w", f.Arg(0), err)
	}
	r, err := c.newContainer(f.Arg(0), img, o, remove)
	if err != nil {
		return err
	}
	if detach {
		r.c.Start(context.WithoutCancel(c.ctx))
		return c.say(r.id + "\n")(nil)
	}
	defer c.forget(r)
	var stdin io.Reader
	if interactive {
		stdin = c.stdin
	}
	err = r.c.Run(c.ctx, stdin, c.stdout, c.stderr)
	var exit *sandbox.ExitError
	if err != nil && !errors.As(err, &exit) && errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(c.stderr, "docker: Error response from daemon: %v\n", err)
		return exitCode(127)
	}
	return err
}

// withEnvFiles replaces --env-file FILE by what is in the file.
func (c *call) withEnvFiles(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		name, value, given := strings.Cut(args[i], "=")
		if name != "--env-file" {
			out = append(out, args[i])
			continue
		}
		if !given && i+1 < len(args) {
			i++
			value = args[i]
		}
		text, err := sandbox.ReadFile(c.ctx, c.Machine, c.abs(value), maxRequest)
		if err != nil {
			fmt.Fprintf(c.stderr, "open %s: no such file or directory\n", value)
			continue
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				out = append(out, "--env", line)
			}
		}
	}
	return out
}

// newContainer opens a container under a name that nobody has.
func (c *call) newContainer(ref string, img container.Image, o *container.Options, remove bool) (*running, error) {
	id := make([]byte, 32)
	rand.Read(id)
	r := &running{id: hex.EncodeToString(id), image: ref, o: o, remove: remove}
	r.name = cmp.Or(o.Name, "job_"+r.id[:8])
	if other := c.find(r.name); other != nil {
		return nil, fmt.Errorf("Conflict. The container name \"/%s\" is already in use by container \"%s\"", r.name, other.id)
	}
	var err error
	if r.c, err = container.Open(c.ctx, c.Machine, r.name, img, o); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.containers) >= maxContainers {
		r.c.Close(context.WithoutCancel(c.ctx))
		return nil, fmt.Errorf("more than %d containers", maxContainers)
	}
	c.containers = append(c.containers, r)
	return r, nil
}

// forget closes a container.
func (c *call) forget(r *running) {
	c.mu.Lock()
	c.containers = slices.DeleteFunc(c.containers, func(o *running) bool { return o == r })
	c.mu.Unlock()
	r.c.Close(context.WithoutCancel(c.ctx))
}

// find gives a container by its name or the beginning of its ID; nil if there is none.
func (c *call) find(name string) *running {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.containers {
		if r.name == strings.TrimPrefix(name, "/") || len(name) >= 4 && strings.HasPrefix(r.id, name) {
			return r
		}
	}
	return nil
}

// each does something with every container that is named.
func (c *call) each(names []string, do func(r *running) error) error {
	var failed error
	for _, name := range names {
		r := c.find(name)
		if r == nil {
			fmt.Fprintf(c.stderr, "Error response from daemon: No such container: %s\n", name)
			failed = exitCode(1)
			continue
		}
		if err := do(r); err != nil {
			return err
		}
	}
	return failed
}

// status says how a container is, as docker ps does.
func (r *running) status() string {
	select {
	case <-r.c.Done():
		return fmt.Sprintf("Exited (%d)", exitOf(r.c.Err()))
	default:
		return "Up"
	}
}

func exitOf(err error) int {
	var exit *sandbox.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	}
	return 137
}

// row is a container as docker ps prints it.
type row struct{ ID, Image, Names, Status, Ports string }

func (c *call) ps(args []string) error {
	var format string
	var all, quiet, long bool
	var filters []string
	_, err := c.flags("ps", args, func(f *pflag.FlagSet) {
		f.StringVar(&format, "format", "", "Format output using a Go template, or json")
		f.BoolVarP(&all, "all", "a", false, "Show all containers")
		f.BoolVarP(&quiet, "quiet", "q", false, "Only display container IDs")
		f.BoolVar(&long, "no-trunc", false, "Don't truncate output")
		f.StringArrayVarP(&filters, "filter", "f", nil, "Filter output: name=NAME")
		f.BoolP("latest", "l", false, "(no effect here)")
		f.IntP("last", "n", -1, "(no effect here)")
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	containers := slices.Clone(c.containers)
	c.mu.Unlock()
	rows := []row{}
	for _, r := range containers {
		status := r.status()
		if !all && status != "Up" || !matches(r, filters) {
			continue
		}
		id := r.id[:12]
		if long {
			id = r.id
		}
		rows = append(rows, row{id, r.image, r.name, status, strings.Join(r.ports(), ", ")})
	}
	return c.table(rows, format, quiet, "CONTAINER ID\tIMAGE\tSTATUS\tPORTS\tNAMES", "{{.ID}}\t{{.Image}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}")
}

func matches(r *running, filters []string) bool {
	for _, f := range filters {
		if name, ok := strings.CutPrefix(f, "name="); ok && !strings.Contains(r.name, strings.Trim(name, "^$/")) {
			return false
		}
		if id, ok := strings.CutPrefix(f, "id="); ok && !strings.HasPrefix(r.id, id) {
			return false
		}
	}
	return true
}

func (r *running) ports() []string {
	var out []string
	for _, p := range r.o.Ports {
		out = append(out, fmt.Sprintf("0.0.0.0:%d->%d/%s", cmp.Or(p.Host, p.Container), p.Container, p.Protocol))
	}
	return out
}

func (c *call) port(args []string) error {
	if len(args) == 0 {
		return &usage{"port", errors.New("\"docker port\" requires at least 1 argument")}
	}
	return c.each(args[:1], func(r *running) error {
		for _, p := range r.o.Ports {
			fmt.Fprintf(c.stdout, "%d/%s -> 0.0.0.0:%d\n", p.Container, p.Protocol, cmp.Or(p.Host, p.Container))
		}
		return nil
	})
}

func (c *call) logs(args []string) error {
	var follow bool
	f, err := c.flags("logs", args, func(f *pflag.FlagSet) {
		f.BoolVarP(&follow, "follow", "f", false, "Follow log output")
		f.BoolP("timestamps", "t", false, "(no effect here)")
		f.Bool("details", false, "(no effect here)")
		f.StringP("tail", "n", "all", "(no effect here)")
		f.String("since", "", "(no effect here)")
		f.String("until", "", "(no effect here)")
	})
	if err != nil {
		return err
	}
	return c.each(f.Args(), func(r *running) error {
		if follow {
			select {
			case <-r.c.Done():
			case <-c.ctx.Done():
			}
		}
		text, _ := r.c.Output()
		_, err := c.stdout.Write(text)
		return err
	})
}

// stop ends containers; what is left of them is there until rm.
func (c *call) stop(args []string) error {
	f, err := c.flags("stop", args, func(f *pflag.FlagSet) {
		f.IntP("time", "t", 10, "(no effect here)")
		f.IntP("timeout", "", 10, "(no effect here)")
		f.StringP("signal", "s", "", "(no effect here)")
	})
	if err != nil {
		return err
	}
	return c.each(f.Args(), func(r *running) error {
		r.c.Halt()
		if r.remove {
			c.forget(r)
		}
		fmt.Fprintln(c.stdout, f.Arg(0))
		return nil
	})
}

func (c *call) rm(args []string) error {
	var force bool
	f, err := c.flags("rm", args, func(f *pflag.FlagSet) {
		f.BoolVarP(&force, "force", "f", false, "Force the removal of a running container")
		f.BoolP("volumes", "v", false, "(no effect here)")
		f.BoolP("link", "l", false, "(no effect here)")
	})
	if err != nil {
		return err
	}
	err = c.each(f.Args(), func(r *running) error {
		if !force && r.status() == "Up" {
			return fmt.Errorf("response from daemon: You cannot remove a running container %s. Stop the container before attempting removal or force remove", r.id)
		}
		c.forget(r)
		fmt.Fprintln(c.stdout, r.name)
		return nil
	})
	if force && errors.Is(err, exitCode(1)) {
		return nil
	}
	return err
}

func (c *call) wait(args []string) error {
	return c.each(args, func(r *running) error {
		select {
		case <-r.c.Done():
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
		fmt.Fprintln(c.stdout, exitOf(r.c.Err()))
		return nil
	})
}

func (c *call) exec(args []string) error {
	var interactive bool
	var user, dir string
	var env []string
	f := pflag.NewFlagSet("exec", pflag.ContinueOnError)
	f.Usage = func() {}
	f.SetInterspersed(false)
	f.BoolVarP(&interactive, "interactive", "i", false, "")
	f.BoolP("tty", "t", false, "")
	f.BoolP("detach", "d", false, "")
	f.Bool("privileged", false, "")
	f.StringVarP(&user, "user", "u", "", "")
	f.StringVarP(&dir, "workdir", "w", "", "")
	f.StringArrayVarP(&env, "env", "e", nil, "")
	if err := f.Parse(args); err != nil {
		return &usage{"exec", err}
	}
	if f.NArg() < 2 {
		return &usage{"exec", errors.New("\"docker exec\" requires at least 2 arguments")}
	}
	for i, kv := range env {
		if !strings.Contains(kv, "=") {
			env[i] = kv + "=" + c.req.Env[kv]
		}
	}
	return c.each(f.Args()[:1], func(r *running) error {
		cmd := sandbox.Command{Args: f.Args()[1:], Env: env, Dir: dir, User: user, Stdout: c.stdout, Stderr: c.stderr}
		if interactive {
			cmd.Stdin = c.stdin
		}
		return r.c.Exec(c.ctx, cmd)
	})
}

// describe is a container in the shape of Docker's API.
func (c *call) describe(r *running) map[string]any {
	status := r.status()
	state := map[string]any{"Status": "running", "Running": true, "ExitCode": 0}
	if status != "Up" {
		state = map[string]any{"Status": "exited", "Running": false, "ExitCode": exitOf(r.c.Err())}
	}
	return map[string]any{
		"Id": r.id, "Name": "/" + r.name, "Image": r.image, "State": state,
		"NetworkSettings": map[string]any{"IPAddress": "127.0.0.1", "Networks": map[string]any{"bridge": map[string]any{"IPAddress": "127.0.0.1"}}},
	}
}

// remember is docker network and docker volume: their names are all there is to them.
func (c *call) remember(kind string) func(args []string) error {
	return func(args []string) error {
		var name string
		if len(args) > 1 {
			name = args[len(args)-1]
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.names == nil {
			c.names = map[string]bool{}
		}
		switch verb := strings.Join(args[:min(len(args), 1)], ""); verb {
		case "create":
			if len(c.names) < maxContainers {
				c.names[kind+" "+name] = true
			}
			fmt.Fprintln(c.stdout, name)
		case "rm", "remove":
			delete(c.names, kind+" "+name)
			fmt.Fprintln(c.stdout, name)
		case "ls", "list", "prune", "connect", "disconnect":
			for _, n := range keys(c.names) {
				if rest, ok := strings.CutPrefix(n, kind+" "); ok && (verb == "ls" || verb == "list") {
					fmt.Fprintln(c.stdout, rest)
				}
			}
		case "inspect":
			if !c.names[kind+" "+name] {
				return fmt.Errorf("No such %s: %s", kind, name)
			}
			fmt.Fprintf(c.stdout, "[{\"Name\": %q}]\n", name)
		default:
			return fmt.Errorf("'docker %s %s' is not supported here", kind, verb)
		}
		return nil
	}
}

// saveTo writes an archive of images to a file of the machine.
func (c *call) saveTo(name string, refs ...string) error {
	return c.deliver(name, func(w io.Writer) error { return c.Images.Save(c.ctx, w, refs...) })
}

// deliver writes a file of the machine, which may be large.
func (c *call) deliver(name string, write func(io.Writer) error) error {
	temp, err := os.CreateTemp("", "penstock-save-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	if err := write(temp); err != nil {
		return err
	}
	info, err := temp.Stat()
	if err != nil {
		return err
	}
	if _, err := temp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	full := c.abs(name)
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Base(full), Mode: 0o644, Size: info.Size()})
		if err == nil {
			_, err = io.Copy(t, temp)
		}
		if err == nil {
			err = t.Close()
		}
		w.CloseWithError(err)
	}()
	defer r.Close()
	return c.Machine.Put(c.ctx, path.Dir(full), r)
}
