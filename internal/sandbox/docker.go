package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// DockerOptions say which Docker opens machines, and how.
type DockerOptions struct {
	// Host is the daemon's address, like unix:///var/run/docker.sock; empty takes DOCKER_HOST, DOCKER_CERT_PATH and so
	// on by the rules of Docker's own client.
	Host string
	// Image is what machines show whose spec names none.
	Image string
	// Network is one of the daemon's that every machine joins; empty makes a bridge of its own for each, as GitHub's runner
	// does for jobs in containers.
	Network string
	// Credentials gives the user name and password for the registry that an image is pulled from; an empty name, or nil,
	// pulls without.
	Credentials func(ctx context.Context, ref string) (user, password string, err error)
	// Progress is told how much of an image is there while it is pulled, bytes; nil is told nothing. total grows while
	// the daemon finds out.
	Progress func(ref string, done, total int64)
}

// Docker opens machines that are containers of a Docker daemon.
type Docker struct {
	// Ladder is how a command is stopped; NewDocker gives GitHub's.
	Ladder Ladder

	o     DockerOptions
	api   *client.Client
	owner string
	close func() error

	remote bool // machines make no use of the daemon's being on this host

	mu     sync.Mutex
	closed bool
	open   map[*dockerMachine]bool
	known  map[string]*dockerImage // by ID
}

const (
	// labelOwner says which process a container belongs to (dockerOwner), labelMachine what its spec called it.
	labelOwner   = "dev.penstock.owner"
	labelMachine = "dev.penstock.machine"
	// dockerPatience bounds a question to the daemon that moves no files.
	dockerPatience = 30 * time.Second
	// dockerPath is the PATH of images that set none: Docker's own default.
	dockerPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// NewDocker speaks with a daemon and removes what processes that have ended left there. The error says why it can not be
// reached.
func NewDocker(o DockerOptions) (*Docker, error) {
	opts := []client.Opt{client.FromEnv}
	if o.Host != "" {
		opts = append(opts, client.WithHost(o.Host))
	}
	api, err := client.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("prepare Docker machines: %w", err)
	}
	d := &Docker{Ladder: github, o: o, api: api, owner: dockerOwner(), open: map[*dockerMachine]bool{}, known: map[string]*dockerImage{}}
	d.close = sync.OnceValue(d.end)
	ctx, cancel := context.WithTimeout(context.Background(), dockerPatience)
	defer cancel()
	if _, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare Docker machines: %w", err), api.Close())
	}
	if err := d.sweep(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("remove what earlier processes left with Docker: %w", err), api.Close())
	}
	return d, nil
}

// Close ends the machines that are still open and lets go of the daemon.
func (d *Docker) Close() error { return d.close() }

func (d *Docker) end() error {
	d.mu.Lock()
	d.closed = true
	open := make([]*dockerMachine, 0, len(d.open))
	for m := range d.open {
		open = append(open, m)
	}
	d.mu.Unlock()
	var err error
	for _, m := range open {
		err = errors.Join(err, m.close())
	}
	return errors.Join(err, d.api.Close())
}

// Open implements Provider. A missing image is pulled. Spec.From is refused: Docker keeps no snapshots.
func (d *Docker) Open(ctx context.Context, spec Spec) (Sandbox, error) {
	sb, err := d.openMachine(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("open a machine for %s: %w", spec.Name, err)
	}
	return sb, nil
}

func (d *Docker) openMachine(ctx context.Context, spec Spec) (Sandbox, error) {
	if err := errors.Join(spec.check(), context.Cause(ctx)); err != nil {
		return nil, err
	}
	if spec.From != "" {
		return nil, errors.New("a Docker machine can not begin with a snapshot")
	}
	ref := spec.Image.Ref
	if ref == "" && len(spec.Image.Layers) > 0 {
		return nil, fmt.Errorf("show layers without a name: %w", ErrNoImages)
	}
	if ref == "" {
		ref = d.o.Image
	}
	image, err := d.image(ctx, ref)
	if err != nil {
		return nil, err
	}
	m := newDockerMachine(d, image, spec)
	if err := d.enrol(m); err != nil {
		return nil, err
	}
	if err = m.start(ctx, spec); err == nil {
		var sb Sandbox
		if sb, err = m.local(ctx); err == nil {
			return sb, nil
		}
	}
	return nil, errors.Join(err, m.close())
}

func (d *Docker) enrol(m *dockerMachine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errors.New("the provider is closed")
	}
	d.open[m] = true
	return nil
}

func (d *Docker) forget(m *dockerMachine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, m)
}

// labels are what everything of this process carries at the daemon.
func (d *Docker) labels(name string) map[string]string {
	return map[string]string{labelOwner: d.owner, labelMachine: name}
}

// dockerName is a fresh name for a container or network.
func dockerName(name string) string {
	return "penstock-" + strings.ToLower(name) + "-" + strings.ToLower(rand.Text()[:12])
}

// hasSubpath says whether the daemon can mount a part of a volume (API 1.45, Docker 26).
func (d *Docker) hasSubpath() bool {
	_, minor, _ := strings.Cut(d.api.ClientVersion(), ".")
	n, err := strconv.Atoi(minor)
	return err == nil && n >= 45
}

// sweep removes what processes left that have ended without closing their machines.
func (d *Docker) sweep(ctx context.Context) error {
	ours := client.Filters{}.Add("label", labelOwner)
	containers, err := d.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: ours})
	if err != nil {
		return err
	}
	for _, c := range containers.Items {
		if ownerIsGone(c.Labels[labelOwner]) {
			err = errors.Join(err, d.removeContainer(ctx, c.ID))
		}
	}
	networks, bad := d.api.NetworkList(ctx, client.NetworkListOptions{Filters: ours})
	if bad != nil {
		return errors.Join(err, bad)
	}
	for _, n := range networks.Items {
		if ownerIsGone(n.Labels[labelOwner]) {
			err = errors.Join(err, d.removeNetwork(ctx, n.ID))
		}
	}
	return err
}

// anonymous is a volume that goes with its container; what the image has at its place is not copied into it.
func anonymous(target string, labels map[string]string, driver *mount.Driver) mount.Mount {
	return mount.Mount{Type: mount.TypeVolume, Target: target, VolumeOptions: &mount.VolumeOptions{NoCopy: true, Labels: labels, DriverConfig: driver}}
}
