package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
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
}

func runnerCommand() *cobra.Command {
	var flags runnerFlags
	c := &cobra.Command{
		Use:   "runner",
		Short: "Run the jobs of a server on this machine",
		Long: `Run the jobs of a server on this machine. It asks the server for jobs and is never asked itself, so it needs no address.

It joins with a registration token, good for an hour, and keeps what it is known by in its data directory: the next start
needs no token.

SIGTERM and Ctrl-C stop it: it takes no more jobs, waits for those that run as long as --drain says, and ends.`,
		Example: `  TOKEN=$(gh api -X POST repos/acme/shop/actions/runners/registration-token -q .token)
  penstock runner --url https://ci.example.com --token $TOKEN --labels gpu,ubuntu-latest`,
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
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	slog.SetDefault(slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil)))
	if f.parallel < 1 {
		return withHint(fmt.Errorf("--jobs %d: at least one job must run", f.parallel), "leave it out for one job a core")
	}
	if f.ephemeral {
		f.parallel = 1
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
	known, err := f.join(ctx, c.ErrOrStderr())
	if err != nil {
		return err
	}
	x, closeAll, err := f.executor(known.URL)
	if err != nil {
		return err
	}
	defer closeAll()
	queue := runner.NewRemote(known.URL, known.Token)
	fmt.Fprintf(c.ErrOrStderr(), "Runner %s waits for jobs of %s\n", known.Name, known.URL)
	return f.work(ctx, stop, queue, known, x)
}

// work runs jobs until ctx ends, or for an ephemeral runner until one has.
func (f *runnerFlags) work(ctx context.Context, stop func(), queue *runner.Remote, known joined, x *job.Executor) error {
	leasing, enough := context.WithCancel(ctx)
	defer enough()
	var q runner.Queue = queue
	if f.ephemeral {
		q = once{queue, enough}
	}
	ended := make(chan error, 1)
	go func() { ended <- runner.Work(leasing, q, runner.Runner{Name: known.Name}, f.parallel, x) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		stop() // the next signal ends the process
		slog.Info("no more jobs are taken; waiting for those that run", "at_most", f.drain)
		select {
		case err = <-ended:
		case <-time.After(f.drain):
			return errors.New("jobs still run and are given up: the server says of each what became of it")
		}
	}
	if errors.Is(err, runner.ErrRemoved) {
		return withHint(err, "remove "+f.stateFile()+" and join with a new registration token")
	}
	if err == nil && f.ephemeral && ctx.Err() == nil {
		err = os.Remove(f.stateFile()) // the server has removed it with its job
	}
	return err
}

// once is a queue of one task.
type once struct {
	*runner.Remote
	enough func()
}

// Lease implements runner.Queue.
func (q once) Lease(ctx context.Context, r runner.Runner) (*ci.Task, error) {
	t, err := q.Remote.Lease(ctx, r)
	if err == nil {
		q.enough()
	}
	return t, err
}

func (f *runnerFlags) stateFile() string { return filepath.Join(f.data, "runner.json") }

// join gives what the runner is known by, after joining if it is not yet.
func (f *runnerFlags) join(ctx context.Context, stderr io.Writer) (known joined, err error) {
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
	if host := u.Hostname(); u.Scheme == "http" && host != "localhost" && !strings.HasPrefix(host, "127.") && host != "::1" {
		fmt.Fprintln(stderr, "warning: secrets of jobs cross the network in the clear: use https")
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
func (f *runnerFlags) executor(server string) (x *job.Executor, closeAll func(), err error) {
	target, err := url.Parse(server)
	if err != nil {
		return nil, nil, err
	}
	settings, err := config.Read(f.data)
	if err != nil {
		return nil, nil, err
	}
	blobs, err := blob.OpenUnsynced(filepath.Join(f.data, "blobs"))
	if err != nil {
		return nil, nil, err
	}
	m, err := f.openMachines(f.data)
	if err != nil {
		blobs.Close()
		return nil, nil, err
	}
	closeAll = func() { m.close(); blobs.Close() }
	actions := &forge.ActionSource{CacheDir: actionsDir(f.data), URLTemplate: f.actionsURL, Log: io.Discard, Overrides: settings.Overrides(f.data)}
	x, notes, err := m.executor(&f.machineFlags, settings, blobs, actions)
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	for _, n := range notes {
		slog.Warn(n)
	}
	// Artifacts are the server's, and so is whatever else a job clones.
	x.Services, x.Host.CloneURL, x.Host.Artifacts = api.NewProxy(target), "", nil
	return x, closeAll, nil
}
