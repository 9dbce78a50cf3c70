package job

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/image"
	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// Images gives the images of containers, ready to be run.
type Images interface {
	// Image gets an image, from a registry if it is not here; what takes its time is told on out, a line each.
	Image(ctx context.Context, ref string, login *image.Credentials, out io.Writer) (container.Image, error)
}

// wanted is a container as the workflow asks for it.
type wanted struct {
	image   string
	options *container.Options
	login   *image.Credentials
}

// service is a service container of the job.
type service struct {
	id        string
	wanted    *wanted
	container *container.Container
	image     container.Image
	saved     layer.ID // what its disk had beyond the image when the job failed
	log       bytes.Buffer
}

// readContainer reads an evaluated `container:` or service; nil for none. volumes is where named volumes are.
func readContainer(v expr.Value, volumes container.Volumes) (*wanted, error) {
	name := v.Text()
	if v.Kind() == expr.KindObject {
		name = v.Property("image").Text()
	}
	w := &wanted{image: strings.TrimPrefix(name, "docker://")}
	if w.image == "" || v.IsNull() {
		return nil, nil
	}
	if v.Kind() != expr.KindObject {
		w.options = &container.Options{}
		return w, nil
	}
	var err error
	if w.options, err = container.ParseOptions(splitArguments(v.Property("options").Text()), volumes); err != nil {
		return nil, fmt.Errorf("options of %s: %w", w.image, err)
	}
	o := w.options
	if text := v.Property("entrypoint").Text(); text != "" {
		o.Entrypoint = []string{text}
	}
	if text := v.Property("command").Text(); text != "" {
		o.Command = splitArguments(text)
	}
	for _, p := range v.Property("env").Pairs() {
		o.Env = append(o.Env, p.Key+"="+p.Value.Text())
	}
	if err := errors.Join(o.AddPorts(texts(v.Property("ports"))...), o.AddVolumes(volumes, texts(v.Property("volumes"))...)); err != nil {
		return nil, err
	}
	if login := v.Property("credentials"); login.Kind() == expr.KindObject {
		w.login = &image.Credentials{Username: login.Property("username").Text(), Password: login.Property("password").Text()}
	}
	return w, nil
}

func texts(list expr.Value) []string {
	var out []string
	for _, v := range list.Items() {
		out = append(out, v.Text())
	}
	return out
}

// volumes is where the job's named volumes are.
func (e *execution) volumes() container.Volumes {
	return container.Volumes(path.Join(e.info.Temp, "_volumes"))
}

// jobContainer gets the image of `container:`, or else that of the place, before there is a machine; nil without one.
func (e *execution) jobContainer(ctx context.Context, in Place) (*container.Image, *wanted, error) {
	var w *wanted
	n := e.def.Container
	if n != nil {
		var err error
		if w, err = e.evalContainer(n); err != nil {
			return nil, nil, err
		}
	}
	if w == nil {
		if in.Image == "" {
			return nil, nil, nil
		}
		w, n = &wanted{image: in.Image, options: &container.Options{}}, nil
	}
	e.log.line("##[group]Starting job container")
	defer e.log.line("##[endgroup]")
	img, err := container.Image{}, sandbox.ErrNoImages
	if e.x.Images != nil {
		img, err = e.x.Images.Image(ctx, w.image, w.login, e.log)
	}
	if err != nil && n != nil {
		err = e.at(n, fmt.Errorf("container %s: %w", w.image, err))
	}
	return &img, w, err
}

// over gives limits where they say something, else those below.
func over(limits, below sandbox.Limits) sandbox.Limits {
	return sandbox.Limits{Memory: cmp.Or(limits.Memory, below.Memory), CPUs: cmp.Or(limits.CPUs, below.CPUs), Processes: cmp.Or(limits.Processes, below.Processes)}
}

func (e *execution) evalContainer(n *workflow.Node) (*wanted, error) {
	v, err := n.Eval(e.env0(e.root, nil))
	if err != nil {
		return nil, e.placed(err)
	}
	w, err := readContainer(v, e.volumes())
	if err != nil {
		return nil, e.at(n, err)
	}
	return w, nil
}

// at puts the place of a node before an error.
func (e *execution) at(n *workflow.Node, err error) error {
	return fmt.Errorf("%s (Line: %d, Col: %d): %w", e.file.Path, n.Pos.Line, n.Pos.Column, err)
}

// moveIn makes the job's steps run as docker exec would have them run in the job's container.
func (e *execution) moveIn(img *container.Image, w *wanted) error {
	if e.def.Container != nil {
		again, err := e.evalContainer(e.def.Container) // its `env:` may read what there is only now
		if err != nil {
			return err
		}
		if again != nil {
			w = again
		}
	}
	e.inImage = true
	e.user = cmp.Or(w.options.User, img.Config.User)
	e.imageEnv = map[string]string{}
	for _, kv := range append(slices.Clone(img.Config.Env), w.options.Env...) {
		k, v, _ := strings.Cut(kv, "=")
		e.imageEnv[k] = v
	}
	if p := e.imageEnv["PATH"]; p != "" {
		e.info.Path = p
	}
	delete(e.imageEnv, "PATH")
	delete(e.imageEnv, "HOME")
	for _, m := range w.options.Mounts {
		e.log.line("##[warning]the volume at %s is not shown: a job's container here shows nothing of the machine around it", m.Target)
	}
	for _, flag := range w.options.Idle {
		e.log.line("##[debug]the container's option %s has no effect here", flag)
	}
	return nil
}

// serviceNames are the host names of the job's services.
func (e *execution) serviceNames() []string {
	var names []string
	if e.def.Services != nil {
		for _, p := range e.def.Services.Pairs() {
			names = append(names, p.Key.Literal().Text())
		}
	}
	return names
}

// startServices starts the job's service containers, all at once, and waits until they are healthy.
func (e *execution) startServices(ctx context.Context) error {
	if err := e.readServices(ctx); err != nil {
		return err
	}
	var starting sync.WaitGroup
	errs := make([]error, len(e.beside))
	for i, s := range e.beside {
		starting.Go(func() { errs[i] = e.startService(ctx, s) })
	}
	starting.Wait()
	for i, s := range e.beside {
		e.log.line("##[group]Starting %s service container", s.id)
		e.log.write(s.log.Bytes())
		e.log.line("##[endgroup]")
		if errs[i] != nil {
			errs[i] = fmt.Errorf("service %s: %w", s.id, errs[i])
		}
	}
	if err := errors.Join(errs...); err != nil {
		return e.at(e.def.Services, err)
	}
	e.setServices()
	return e.awaitServices(ctx)
}

// withContainers has the job's service containers up while do runs: as steps of their own, as on GitHub.
func (e *execution) withContainers(ctx context.Context, do func()) {
	if !e.hasServices() {
		do()
		return
	}
	number := e.beginStep(ci.Step{Name: "Initialize containers"})
	conclusion := ci.Success
	if err := e.startServices(ctx); err != nil {
		conclusion = ci.Failure
		if ctx.Err() != nil || e.interrupt.Err() != nil {
			conclusion = ci.Cancelled
		}
		e.annotate(number, ci.Annotation{Level: "error", Message: err.Error()})
		e.setStatus(failed)
	}
	e.endStep(number, conclusion, conclusion)
	do()
	number = e.beginStep(ci.Step{Name: "Stop containers"})
	stopping, done := context.WithTimeout(e.ctx, time.Minute)
	defer done()
	e.stopServices(stopping)
	e.endStep(number, ci.Success, ci.Success)
}

func (e *execution) hasServices() bool {
	return e.def.Services != nil && (len(e.def.Services.Pairs()) > 0 || !e.def.Services.IsLiteral())
}

// readServices evaluates `services:` and refuses those that want the same port.
func (e *execution) readServices(ctx context.Context) error {
	v, err := e.def.Services.Eval(e.env0(e.root, nil))
	if err != nil {
		return e.placed(err)
	}
	saved, err := e.savedServices(ctx)
	if err != nil {
		return err
	}
	taken := map[int]string{}
	for _, p := range v.Pairs() {
		w, err := readContainer(p.Value, e.volumes())
		if err != nil {
			return e.at(e.def.Services, fmt.Errorf("service %s: %w", p.Key, err))
		}
		if w == nil {
			continue
		}
		for _, port := range w.options.Ports {
			for _, n := range slices.Compact([]int{port.Container, cmp.Or(port.Host, port.Container)}) {
				if other, ok := taken[n]; ok && other != p.Key {
					return e.at(e.def.Services, fmt.Errorf("the services %s and %s both want port %d: services share their job's network here, so give one of them another port by its own configuration", other, p.Key, n))
				}
				taken[n] = p.Key
			}
		}
		e.beside = append(e.beside, &service{id: p.Key, wanted: w, saved: saved[p.Key]})
	}
	return nil
}

// savedServices are the disks that services had when the job failed that is resumed.
func (e *execution) savedServices(ctx context.Context) (map[string]layer.ID, error) {
	if e.t.Resume == nil || e.x.State == nil {
		return nil, nil
	}
	data, err := e.x.State.LoadState(ctx, e.t.Resume.State)
	if err != nil {
		return nil, err
	}
	var s savedState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	return s.Services, nil
}

// startService starts one service. What is said on the way goes into its own log: several start at once.
func (e *execution) startService(ctx context.Context, s *service) (err error) {
	out := &masked{&s.log, e.mask}
	o := s.wanted.options
	if e.x.Images == nil {
		return sandbox.ErrNoImages
	}
	if s.image, err = e.x.Images.Image(ctx, s.wanted.image, s.wanted.login, out); err != nil {
		in, why := container.FindStandIn(s.wanted.image)
		if in == nil {
			return errors.Join(err, told(why))
		}
		fmt.Fprintf(out, "##[warning]%v. %s\n", err, in.Says)
		s.image = in.Image
	}
	for _, flag := range o.Idle {
		fmt.Fprintf(out, "##[debug]the option %s has no effect here\n", flag)
	}
	img := s.image
	if s.saved != "" {
		img.Layers = append(slices.Clip(img.Layers), s.saved)
	}
	o.Env = append([]string{"GITHUB_ACTIONS=true", "CI=true"}, o.Env...)
	if s.container, err = container.Open(ctx, e.sb, s.id, img, o); err != nil {
		return err
	}
	s.container.Start(ctx)
	return nil
}

// told is a sentence as an error; nil for none.
func told(why string) error {
	if why == "" {
		return nil
	}
	return errors.New(why)
}

// masked takes the secrets out of what is written through it.
type masked struct {
	to   *bytes.Buffer
	mask *masker
}

func (m *masked) Write(p []byte) (int, error) {
	m.to.WriteString(m.mask.text(string(p)))
	return len(p), nil
}

// setServices fills the job context.
func (e *execution) setServices() {
	network := expr.Pair{Key: "network", Value: expr.String(networkName)}
	var services []expr.Pair
	for _, s := range e.beside {
		var ports []expr.Pair
		for _, p := range s.wanted.options.Ports {
			ports = append(ports, expr.Pair{Key: strconv.Itoa(p.Container), Value: expr.String(strconv.Itoa(cmp.Or(p.Host, p.Container)))})
		}
		services = append(services, expr.Pair{Key: s.id, Value: expr.Object(
			expr.Pair{Key: "id", Value: expr.String(s.id)}, expr.Pair{Key: "ports", Value: expr.Object(ports...)}, network)})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.jobContext = append(e.jobContext, expr.Pair{Key: "services", Value: expr.Object(services...)})
}

// networkName stands for the network that a job's containers share: the machine's own.
const networkName = "host"

// awaitServices waits until all services are healthy, and shows the output of those that are not.
func (e *execution) awaitServices(ctx context.Context) error {
	e.log.line("##[group]Waiting for all services to be ready")
	var sick []*service
	var whys []error
	for _, s := range e.beside {
		err := s.container.Ready(ctx, func(why string, since, until time.Duration) {
			e.log.line("%s service is starting: %s (waited %s, gives up after %s)", s.id, why, since.Round(100*time.Millisecond), until)
		})
		if ctx.Err() != nil {
			e.log.line("##[endgroup]")
			return context.Cause(ctx)
		}
		if err != nil {
			sick, whys = append(sick, s), append(whys, err)
			continue
		}
		e.log.line("%s service is healthy.", s.id)
	}
	e.log.line("##[endgroup]")
	if len(sick) == 0 {
		return nil
	}
	for i, s := range sick {
		e.log.line("##[group]Service container %s failed.", s.id)
		e.printOutput(s)
		e.log.line("##[endgroup]")
		e.fail(fmt.Errorf("Failed to initialize container %s: %w", s.wanted.image, whys[i]))
	}
	return errors.New("One or more containers failed to start.")
}

// printOutput writes a service's output into the log.
func (e *execution) printOutput(s *service) {
	if s.container == nil {
		return
	}
	text, cut := s.container.Output()
	if cut {
		e.log.line("(only the end of what it wrote is kept)")
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	e.log.write(text)
}

// stopServices ends the services, with what they have written in the log.
func (e *execution) stopServices(ctx context.Context) {
	for _, s := range e.beside {
		if s.container == nil {
			continue
		}
		e.log.line("##[group]Print service container logs: %s", s.id)
		e.printOutput(s)
		e.log.line("##[endgroup]")
	}
	if len(e.failed) > 0 {
		e.keepServices(ctx)
	}
	var closing sync.WaitGroup
	for _, s := range e.beside {
		if s.container != nil {
			closing.Go(func() {
				if err := s.container.Close(ctx); err != nil {
					e.log.line("##[warning]%s", err)
				}
			})
		}
	}
	closing.Wait()
}

// keepServices adds the disks of the services to what is kept of the steps that failed: they come up with them again.
func (e *execution) keepServices(ctx context.Context) {
	disks := map[string]layer.ID{}
	for _, s := range e.beside {
		if s.container == nil {
			continue
		}
		id, err := s.container.Stop(ctx)
		if err != nil {
			e.log.line("##[debug]the disk of service %s is not kept: %s", s.id, err)
			continue
		}
		if id != "" {
			disks[s.id] = id
		}
	}
	for number, s := range e.failed {
		s.Services = disks
		e.writeState(number, s)
	}
}
