package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/runner"
)

// runnerFlags are what `runner` takes.
type runnerFlags struct {
	machineFlags
	url        string
	token      string
	name       string
	labels     []string
	ephemeral  bool
	data       string
	actionsURL string
	drain      time.Duration
	deploy     bool
	address    string
}

func runnerCommand() *cobra.Command {
	var flags runnerFlags
	c := &cobra.Command{
		Use:   "runner",
		Short: "Run the jobs of a server on this machine",
		Long: `Run the jobs of a server on this machine. It asks the server for jobs and is never asked itself, so it needs no address.

It joins with a registration token, good for an hour, and keeps what it is known by in its data directory: the next start
needs no token.

With --deploy it runs instances, too: of the environments whose target in penstock.yaml is {runs-on: LABEL} with labels of this
runner. It opens the connection itself; only the proxy of the server connects to the instances, at --deploy-address, ports 20000 to
31999. They run on while this program is restarted or the server is away; penstock stop --data DIR ends them.

SIGTERM and Ctrl-C stop it: it takes no more jobs, waits for those that run as long as --drain says, and ends. A second one,
or the end of --drain, ends those jobs: they fail, and say why. A third one ends the program.`,
		Example: `  TOKEN=$(gh api -X POST repos/acme/shop/actions/runners/registration-token -q .token)
  penstock runner --url https://ci.example.com --token $TOKEN --labels gpu,ubuntu-latest
  penstock runner --url https://ci.example.com --token $TOKEN --labels web --deploy --jobs 0     instances alone, no jobs`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return flags.run(c) },
	}
	flags.machineFlags.add(c, "jobs")
	f := c.Flags()
	f.StringVar(&flags.url, "url", "", "`URL` of the server")
	f.StringVar(&flags.token, "token", "", "registration `TOKEN`; only for the first start (default $PENSTOCK_RUNNER_TOKEN)")
	f.StringVar(&flags.name, "name", hostName(), "`NAME` by which the server lists the runner")
	f.StringSliceVar(&flags.labels, "labels", nil, "`LABELS` besides self-hosted and those of system and processor")
	f.BoolVar(&flags.ephemeral, "ephemeral", false, "run one job, leave the server and end")
	f.StringVar(&flags.data, "data", "", "keep everything in this `DIR` (default: as penstock run, in the user's cache directory)")
	f.StringVar(&flags.actionsURL, "actions-url", forge.DefaultActionsURL, "where actions are fetched from: a base `URL`, or a file:// template with {owner} and {repo}")
	f.BoolVar(&flags.deploy, "deploy", false, "run instances of releases on this machine, too: target: {runs-on: LABEL} in penstock.yaml")
	f.StringVar(&flags.address, "deploy-address", "", "`IP` of this machine at which the server's proxy reaches the instances (default: the one by which it reaches the server)")
	f.DurationVar(&flags.drain, "drain", 30*time.Second, "how long jobs may go on when the runner is stopped")
	return c
}

// joined is what a runner keeps of where it has joined.
type joined struct {
	URL   string `json:"url"`
	Name  string `json:"name"`
	Token string `json:"token"`
}

func (f *runnerFlags) run(c *cobra.Command) error {
	ctx, now, release := stopSignals(c.Context())
	defer release()
	slog.SetDefault(slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil)))
	if err := f.check(); err != nil {
		return err
	}
	if f.data == "" {
		data, err := dataDir()
		if err != nil {
			return err
		}
		f.data = filepath.Join(data, "runner")
	}
	if err := os.MkdirAll(f.data, 0o700); err != nil {
		return err
	}
	known, err := f.join(ctx)
	if err != nil {
		return err
	}
	if u, err := url.Parse(known.URL); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		fmt.Fprintln(c.ErrOrStderr(), "warning: secrets of jobs cross the network in the clear: use https")
	}
	x, m, closeAll, err := f.executor(known.URL)
	if err != nil {
		return err
	}
	defer closeAll()
	queue := runner.NewRemote(known.URL, known.Token)
	if !f.deploy {
		fmt.Fprintf(c.ErrOrStderr(), "Runner %s waits for jobs of %s\n", known.Name, known.URL)
		return f.work(ctx, now, queue, known, x)
	}
	d, err := f.openDeploy(ctx, known, x, m)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.ErrOrStderr(), "Runner %s runs what %s releases to it, at %s\n", known.Name, known.URL, d.address)
	return errors.Join(d.work(ctx, queue, func(ctx context.Context) error {
		if f.parallel == 0 {
			<-ctx.Done()
			return nil
		}
		return f.work(ctx, now, queue, known, x)
	}), d.close(c.ErrOrStderr()))
}

// check says what is wrong with the flags by themselves.
func (f *runnerFlags) check() error {
	switch {
	case f.parallel < 0 || f.parallel == 0 && !f.deploy:
		return withHint(fmt.Errorf("--jobs %d: at least one job must run", f.parallel), "leave it out for one job a core; with --deploy 0 runs instances alone")
	case f.ephemeral && f.deploy:
		return errors.New("--ephemeral and --deploy: a runner for one job runs no instances")
	case f.address != "" && !f.deploy:
		return withHint(errors.New("--deploy-address without --deploy"), "--deploy runs instances on this machine")
	case f.ephemeral:
		f.parallel = 1
	}
	return nil
}

// stopSignals gives a context that ends with the first signal to stop, and one that ends with the second. The third ends the
// process, as any does after release.
func stopSignals(ctx context.Context) (first, second context.Context, release func()) {
	first, endFirst := context.WithCancel(ctx)
	second, endSecond := context.WithCancel(context.WithoutCancel(ctx))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	over := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		defer signal.Stop(signals)
		for _, end := range []func(){endFirst, endSecond} {
			select {
			case <-signals:
				end()
			case <-over:
				return
			}
		}
	})
	return first, second, func() { close(over); waiting.Wait(); endFirst(); endSecond() }
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// work runs jobs until ctx ends, or for an ephemeral runner until one has. When now ends, or --drain is over, it ends those
// that still run.
func (f *runnerFlags) work(ctx, now context.Context, queue *runner.Remote, known joined, x runner.Executor) error {
	leasing, enough := context.WithCancel(ctx)
	defer enough()
	now, end := context.WithCancel(now)
	defer end()
	var q runner.Queue = runner.NewStoppable(now, queue, "The runner was stopped while the job ran.")
	if f.ephemeral {
		q = once{q, enough}
	}
	ended := make(chan error, 1)
	go func() { ended <- runner.Work(leasing, q, runner.Runner{Name: known.Name}, f.parallel, x) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		slog.Info("no more jobs are taken; waiting for those that run", "at_most", f.drain)
		drained := time.AfterFunc(f.drain, end)
		defer drained.Stop()
		err = <-ended
		if now.Err() != nil {
			slog.Warn("jobs that still ran were ended")
		}
	}
	if f.ephemeral {
		err = errors.Join(err, f.leave(context.WithoutCancel(ctx), queue))
	}
	if errors.Is(err, runner.ErrRemoved) {
		return withHint(err, "remove "+f.stateFile()+" and join with a new registration token")
	}
	return err
}

// leave takes an ephemeral runner off the server, which has removed it already if it has finished its job.
func (f *runnerFlags) leave(ctx context.Context, queue *runner.Remote) error {
	if err := queue.Leave(ctx); err != nil && !errors.Is(err, runner.ErrRemoved) {
		slog.Warn("the server still lists this runner", "error", err)
	}
	return os.Remove(f.stateFile())
}

// once is a queue of one task.
type once struct {
	runner.Queue
	enough func()
}

// Lease implements runner.Queue.
func (q once) Lease(ctx context.Context, r runner.Runner) (*ci.Task, error) {
	t, err := q.Queue.Lease(ctx, r)
	if err == nil {
		q.enough()
	}
	return t, err
}

func (f *runnerFlags) stateFile() string { return filepath.Join(f.data, "runner.json") }

// join gives what the runner is known by, after joining if it is not yet.
func (f *runnerFlags) join(ctx context.Context) (known joined, err error) {
	text, err := os.ReadFile(f.stateFile())
	if err == nil {
		if err := json.Unmarshal(text, &known); err != nil {
			return known, withHint(fmt.Errorf("%s is not of the form that penstock writes: %w", f.stateFile(), err), "remove it and join anew")
		}
		if f.url != "" && strings.TrimSuffix(f.url, "/") != known.URL {
			return known, withHint(fmt.Errorf("this runner has joined %s", known.URL), "name another directory with --data to join "+f.url+" as well")
		}
		return known, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return known, err
	}
	token := f.token
	if token == "" {
		token = os.Getenv("PENSTOCK_RUNNER_TOKEN")
	}
	if f.url == "" || token == "" {
		return known, withHint(errors.New("this runner has not joined a server: --url and --token say which one and with what"),
			"gh api -X POST repos/OWNER/NAME/actions/runners/registration-token -q .token gives a token")
	}
	u, err := url.Parse(f.url)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return known, withHint(fmt.Errorf("--url %s: no URL of a server", f.url), "it is like https://ci.example.com")
	}
	system, processor := machineLabels()
	made, err := runner.Join(ctx, f.url, runner.Joining{Token: token, Name: f.name, OS: system, Arch: processor, Labels: f.labels, Ephemeral: f.ephemeral})
	if err != nil {
		return known, err
	}
	known = joined{URL: strings.TrimSuffix(f.url, "/"), Name: f.name, Token: made.Token}
	if text, err = json.Marshal(known); err != nil {
		return known, err
	}
	return known, writeWhole(f.stateFile(), append(text, '\n'))
}

// machineLabels are those of this machine, as GitHub names systems and processors.
func machineLabels() (system, processor string) {
	system = map[string]string{"linux": "Linux", "darwin": "macOS", "windows": "Windows"}[runtime.GOOS]
	processor = map[string]string{"amd64": "X64", "arm64": "ARM64", "386": "X86", "arm": "ARM"}[runtime.GOARCH]
	return system, processor
}

// executor is what executes jobs of a server elsewhere.
func (f *runnerFlags) executor(server string) (x *job.Executor, m *machines, closeAll func(), err error) {
	target, err := url.Parse(server)
	if err != nil {
		return nil, nil, nil, err
	}
	settings, err := config.Read(f.data)
	if err != nil {
		return nil, nil, nil, err
	}
	blobs, err := blob.OpenUnsynced(filepath.Join(f.data, "blobs"))
	if err != nil {
		return nil, nil, nil, err
	}
	m, err = f.openMachines(f.data)
	if err != nil {
		blobs.Close()
		return nil, nil, nil, err
	}
	closeAll = func() { m.close(); blobs.Close() }
	actions := &forge.ActionSource{CacheDir: actionsDir(f.data), URLTemplate: f.actionsURL, Log: io.Discard, Overrides: settings.Overrides(f.data)}
	x, notes, err := m.executor(&f.machineFlags, settings, blobs, actions)
	if err != nil {
		closeAll()
		return nil, nil, nil, err
	}
	for _, n := range notes {
		slog.Warn(n)
	}
	// Artifacts are the server's, and so is whatever else a job clones.
	x.Services, x.Host.CloneURL, x.Host.Artifacts = api.NewProxy(target), "", nil
	return x, m, closeAll, nil
}
