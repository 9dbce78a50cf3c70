package cli

import (
	"cmp"
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
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/container"
	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

const (
	// serverStop is how long requests and streams may go on after the server was told to stop.
	serverStop = 5 * time.Second
	socketName = "penstock.sock"
)

// serveFlags are what `serve` takes.
type serveFlags struct {
	machineFlags
	data       string
	shared     string
	name       string
	listen     string
	url        string
	database   string
	blobs      string
	certFile   string
	keyFile    string
	readyFile  string
	actionsURL string
	labels     []string
	proxy      proxyFlags
	allowLocal []string
	drain      time.Duration
	asJSON     bool
}

func serveCommand() *cobra.Command {
	var flags serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve git, runs and GitHub's API to a team, at one address",
		Long: `Serve repositories, runs and GitHub's API at one address. What is pushed runs: the workflows that the repository has.

The first start makes the data directory, its keys and a database, and prints a token for the administrator. Push a
repository, and it is there:

  git push http://x:TOKEN@127.0.0.1:8080/acme/shop main

gh speaks to it by the socket in the data directory, or over https:

  gh config set http_unix_socket DIR/penstock.sock
  GH_HOST=penstock.local GH_ENTERPRISE_TOKEN=TOKEN gh run list -R penstock.local/acme/shop

SIGTERM and Ctrl-C stop it: it takes no more jobs, waits for those that run as long as --drain says, and ends; again, and it
ends at once. Everything is below the data directory; penstock.yaml there holds for all repositories (labels, mirrors, limits).`,
		Example: `  penstock serve                                   on 127.0.0.1:8080, with as many jobs at a time as there are cores
  penstock serve --proxy :80                       with a proxy before what is released by penstock deploy
  penstock serve --listen :443 --cert tls.crt --key tls.key --url https://ci.example.com
  penstock serve --database postgres://penstock@db/penstock --runners 0
  penstock serve --blobs 's3://ci/blobs?endpoint=https://minio.example.com'
  penstock serve --database postgres://penstock@db/penstock --shared /srv/penstock --name one`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return flags.run(c) },
	}
	flags.machineFlags.add(c, "runners")
	f := c.Flags()
	f.StringVar(&flags.data, "data", "", "keep everything in this `DIR` (default /var/lib/penstock for root, else ~/.local/share/penstock)")
	f.StringVar(&flags.listen, "listen", "127.0.0.1:8080", "listen at this `HOST:PORT`; port 0 takes a free one")
	f.StringVar(&flags.url, "url", "", "`URL` by which people and jobs reach the server (default: the address it listens at)")
	f.StringVar(&flags.database, "database", "", "`URL` of the database: postgres://... (default: SQLite in the data directory)")
	f.StringVar(&flags.blobs, "blobs", "", "`URL` of an S3-compatible store for logs, artifacts and caches: s3://BUCKET[/PREFIX][?endpoint=URL&region=REGION], with the credentials of AWS's tools (default: the data directory)")
	f.StringVar(&flags.shared, "shared", "", "keep repositories, keys and blobs in this `DIR` that several servers with one --database have in common; --data is each one's own")
	f.StringVar(&flags.name, "name", hostName(), "`NAME` of this server and its own runner, other than those of the servers it shares with")
	f.StringVar(&flags.certFile, "cert", "", "certificate `FILE` to serve https; needs --key")
	f.StringVar(&flags.keyFile, "key", "", "private key `FILE` of --cert")
	f.StringVar(&flags.readyFile, "ready-file", "", "write JSON with url, token, socket and proxy_url to this `FILE` when the server is ready, for scripts")
	f.StringVar(&flags.actionsURL, "actions-url", forge.DefaultActionsURL, "where actions are fetched from: a base `URL`, or a file:// template with {owner} and {repo}")
	f.StringSliceVar(&flags.labels, "labels", nil, "`LABELS` of this server's own runner besides self-hosted, ubuntu-latest and what this machine and penstock.yaml give it")
	flags.proxy.add(c)
	f.StringSliceVar(&flags.allowLocal, "allow-local", nil, "`ADDRESSES` of this machine (HOST:PORT) that webhooks and metric queries of repositories may reach")
	f.DurationVar(&flags.drain, "drain", 30*time.Second, "how long jobs may go on when the server is stopped; what runs then is ended, and has failed with this as the reason")
	f.BoolVar(&flags.asJSON, "json", false, "log JSON, one object a line")
	c.MarkFlagsRequiredTogether("cert", "key")
	return c
}

func (f *serveFlags) run(c *cobra.Command) error {
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if f.data == "" {
		var err error
		if f.data, err = serverDir(); err != nil {
			return err
		}
	}
	var err error
	if f.data, err = filepath.Abs(f.data); err != nil { // it is told to others, with the socket in it
		return err
	}
	s, err := f.open(ctx, c.ErrOrStderr())
	if err != nil {
		return err
	}
	return errors.Join(s.serve(ctx, stop, f, c.ErrOrStderr()), s.close())
}

// serverDir is where a server keeps everything that nobody said otherwise for.
func serverDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/penstock", nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "penstock"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", withHint(fmt.Errorf("find the home directory: %w", err), "name the directory: --data DIR")
	}
	return filepath.Join(home, ".local", "share", "penstock"), nil
}

// server is a whole Penstock for a team.
type server struct {
	*api.Server
	machines *machines // nil without a runner of its own
	executor *job.Executor
	target   *deploy.Fleet
	store    *store.Store
	blobs    blob.Store
	tcp      net.Listener
	socket   net.Listener
	labels   []string // of the own runner
	disks    *states
	traces   *api.Traces    // nil for none
	token    string         // of the administrator, when it was made in this start
	jobs     sync.WaitGroup // those of the own runner
	work     sync.WaitGroup // all else
}

// check says what is wrong with the flags by themselves.
func (f *serveFlags) check() error {
	if f.parallel < 0 {
		return withHint(fmt.Errorf("--runners %d: not a number of jobs", f.parallel), "0 runs none here, for servers with runners elsewhere")
	}
	if f.shared != "" && f.database == "" {
		return withHint(errors.New("--shared without --database: servers that share have one database"), "name it: --database postgres://USER@HOST/NAME")
	}
	if u, err := url.Parse(f.url); f.url != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil) {
		return withHint(fmt.Errorf("--url %s: no address of a server", f.url), "it is like https://ci.example.com")
	}
	return nil
}

// open makes everything ready that a server stands on.
func (f *serveFlags) open(ctx context.Context, stderr io.Writer) (s *server, err error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	opening := &server{}
	defer func() {
		if err != nil {
			err = errors.Join(err, opening.close())
		}
	}()
	s = opening
	for _, dir := range []string{f.data, f.shared} {
		if err := os.MkdirAll(dir, 0o700); dir != "" && err != nil {
			return nil, fmt.Errorf("make the data directory: %w", err)
		}
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if f.asJSON {
		log = slog.New(slog.NewJSONHandler(stderr, nil))
	}
	slog.SetDefault(log)
	if s.tcp, err = net.Listen("tcp", f.listen); err != nil {
		return nil, withHint(fmt.Errorf("listen: %w", err), "--listen 127.0.0.1:0 takes a free port")
	}
	if f.url == "" {
		f.url = f.origin(s.tcp.Addr())
	}
	if s.store, err = store.Open(ctx, f.databaseURL()); err != nil {
		return nil, err
	}
	common := cmp.Or(f.shared, f.data)
	if s.blobs, err = f.openBlobs(ctx, filepath.Join(common, "blobs"), log); err != nil {
		return nil, err
	}
	keys, err := auth.OpenKeyFile(filepath.Join(common, keysName))
	if err != nil {
		return nil, err
	}
	settings, err := config.Read(f.data)
	if err != nil {
		return nil, err
	}
	actions := &forge.ActionSource{CacheDir: actionsDir(f.data), URLTemplate: f.actionsURL, Log: io.Discard, Overrides: settings.Overrides(f.data)}
	if s.machines, err = f.openMachines(f.data); err != nil {
		return nil, err
	}
	x, notes, err := s.machines.executor(&f.machineFlags, settings, s.blobs, actions)
	if err != nil {
		return nil, err
	}
	for _, n := range notes {
		log.Warn(n)
	}
	s.labels = f.allLabels(settings)
	disks := &states{f.name, s.blobs, s.machines.layers}
	s.disks, x.State = disks, disks
	if s.traces, err = api.OpenTraces(ctx); err != nil {
		return nil, err
	}
	client, proxyURL, err := f.proxy.open(ctx, filepath.Join(f.data, proxyDir))
	if err != nil {
		return nil, err
	}
	images, builder := x.Images.(container.Images).Store, x.Builder.(actionBuilder).Builder
	carries := &deploy.Carrier{Proxy: client}
	if carries.Outside, err = outside(f.allowLocal, f.url, proxyURL); err != nil {
		return nil, err
	}
	s.Server, err = api.NewServer(ctx, api.ServerOptions{
		Store: s.store, Blobs: s.blobs, Artifacts: x.Host.Artifacts, Caches: x.Host.Cache, Keys: keys.Keyring, Repositories: filepath.Join(common, "repositories"),
		Actions: actions, URL: strings.TrimSuffix(f.url, "/"), Log: log, Name: f.name, Ended: disks.keepDisks, Traces: s.traces,
		Images: &deploy.Images{Store: images, Builder: builder, Dir: filepath.Join(f.data, "contexts")}, Carrier: carries, ProxyURL: proxyURL,
	})
	if err != nil {
		return nil, err
	}
	if err := s.openTarget(ctx, f, images, client); err != nil {
		return nil, err
	}
	x.Services, x.Host.CloneURL = s.Runtime, "" // other repositories than a job's own are this server's too
	s.executor = x
	if s.token, err = s.Setup(ctx); err != nil {
		return nil, err
	}
	s.socket, err = listenSocket(filepath.Join(f.data, socketName))
	return s, err
}

// allLabels are those of the server's own runner: GitHub's for machines like this one, so that workflows run as they are.
func (f *serveFlags) allLabels(c *config.Config) []string {
	system, processor := machineLabels()
	labels := append([]string{"self-hosted", system, processor}, f.labels...)
	if system == "Linux" {
		labels = append(labels, "ubuntu-latest", "ubuntu-slim", "ubuntu-26.04", "ubuntu-24.04", "ubuntu-22.04", "ubuntu-20.04")
		if processor == "ARM64" {
			labels = append(labels, "ubuntu-24.04-arm", "ubuntu-22.04-arm")
		}
	}
	for _, r := range c.RunsOn {
		labels = append(labels, r.Label)
	}
	for _, p := range f.platforms {
		label, _, _ := strings.Cut(p, "=")
		labels = append(labels, label)
	}
	return labels
}

// origin is the URL of an address that is listened at.
func (f *serveFlags) origin(a net.Addr) string {
	scheme := "http"
	if f.certFile != "" {
		scheme = "https"
	}
	host, port, _ := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

func (f *serveFlags) databaseURL() string {
	if f.database != "" {
		return f.database
	}
	return "sqlite:" + filepath.Join(f.data, databaseName)
}

// openBlobs opens the store of blobs. One in a bucket has a directory for logs that still grow.
func (f *serveFlags) openBlobs(ctx context.Context, dir string, log *slog.Logger) (blob.Store, error) {
	if f.blobs != "" {
		b, err := blob.OpenBucket(ctx, f.blobs, dir, log)
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	d, err := blob.Open(dir)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// listenSocket listens at a socket for this user's programs. One that a killed server left is removed; the database's lock
// has told that no other server has this directory.
func listenSocket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, os.Chmod(path, 0o600)
}

// ready is what scripts are told.
type ready struct {
	URL      string `json:"url"`
	Token    string `json:"token"`
	Socket   string `json:"socket"`
	ProxyURL string `json:"proxy_url"` // empty without one
}

// serve serves until ctx ends, which is no error. stop gives the signals that ended it back to the system: the next one
// ends the process.
func (s *server) serve(ctx context.Context, stop func(), f *serveFlags, stderr io.Writer) error {
	web := api.NewHTTPServer(s.Server)
	web.ErrorLog = slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug)
	ended := make(chan error, 2)
	go func() { ended <- web.Serve(s.socket) }()
	go func() {
		if f.certFile != "" {
			ended <- web.ServeTLS(s.tcp, f.certFile, f.keyFile)
			return
		}
		ended <- web.Serve(s.tcp)
	}()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	s.work.Go(func() { s.Server.Work(work) })
	s.work.Go(func() { s.tidy(work) })
	s.work.Go(func() { _ = s.Releases.Work(work, carrier{s.Carrier}) })
	if s.Carrier.Proxy != nil {
		s.work.Go(func() { _ = s.Carrier.Proxy.Keep(work, s.Log) })
	}
	now, endJobs := context.WithCancel(work)
	defer endJobs()
	if f.parallel > 0 {
		who := runner.Runner{Name: f.name, Labels: s.labels}
		if !s.store.Shared() { // else another server may be of that name
			if err := s.Engine.Abandon(ctx, who.Name, "The server was stopped while the job ran."); err != nil {
				s.Log.Warn("jobs of the time before are lost a little later", "error", err)
			}
		}
		queue := runner.NewStoppable(now, s.Engine, "The server was stopped while the job ran.")
		s.jobs.Go(func() { _ = runner.Work(ctx, queue, who, f.parallel, s.executor) })
	}
	err := s.announce(ctx, f, stderr)
	if err == nil {
		select {
		case err = <-ended:
		case <-ctx.Done():
		}
	}
	stop()
	s.waitForJobs(f.drain, endJobs)
	stopping, cancel := context.WithTimeout(work, serverStop)
	defer cancel()
	if web.Shutdown(stopping) != nil {
		web.Close() // streams go on for ever: they are cut off, and come again
	}
	return err
}

// waitForJobs waits for the jobs that run here, for a while, then ends them.
func (s *server) waitForJobs(patience time.Duration, end func()) {
	idle := make(chan struct{})
	go func() { s.jobs.Wait(); close(idle) }()
	select {
	case <-idle:
		return
	case <-time.After(100 * time.Millisecond): // none to speak of
	}
	s.Log.Info("waiting for the jobs that run here", "at_most", patience)
	select {
	case <-idle:
	case <-time.After(patience):
		end()
		<-idle
		s.Log.Warn("jobs that still ran were ended")
	}
}

// tidy removes what no run needs any more, now and then.
func (s *server) tidy(ctx context.Context) {
	for {
		host := s.executor.Host
		err := errors.Join(host.Cache.Trim(ctx), host.Artifacts.Sweep(ctx), s.Runtime.SweepUploads(ctx), s.SweepFiles(ctx), s.disks.forgetDisks(), s.machines.layers.Collect(ctx))
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("what is not needed any more could not be removed", "error", err)
		}
		select {
		case <-time.After(tidyEvery):
		case <-ctx.Done():
			return
		}
	}
}

// announce says where the server is, to people and to scripts.
func (s *server) announce(ctx context.Context, f *serveFlags, stderr io.Writer) error {
	fmt.Fprintf(stderr, "Penstock serves %s\n", s.URL)
	if s.ProxyURL != "" {
		fmt.Fprintf(stderr, "The proxy is at %s\n", s.ProxyURL)
	}
	if s.token != "" {
		fmt.Fprintf(stderr, "Open %s/#token=%s\nto sign in as admin. This token is not shown again.\n", s.URL, s.token)
	}
	if tcp, ok := s.tcp.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && f.certFile == "" {
		s.Log.Warn("tokens cross the network in the clear: serve https with --cert and --key, or by a proxy before this server")
	}
	if f.readyFile == "" {
		return nil
	}
	token := s.token
	if token == "" {
		var err error
		if token, err = s.AdminToken(ctx, "ready-file"); err != nil {
			return err
		}
	}
	text, err := json.Marshal(ready{URL: s.URL, Token: token, Socket: s.socket.Addr().String(), ProxyURL: s.ProxyURL})
	if err != nil {
		return err
	}
	return writeWhole(f.readyFile, append(text, '\n'))
}

// writeWhole writes a file for this user alone, so that who sees it sees all of it.
func writeWhole(path string, data []byte) error {
	part := path + ".part"
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	return os.Rename(part, path)
}

func (s *server) close() error {
	s.work.Wait()
	if err := s.traces.Close(); err != nil {
		slog.Warn("the last traces could not be delivered", "error", err)
	}
	var errs []error
	if s.target != nil {
		errs = append(errs, s.target.Close()) // its instances run on, and the proxy: the next start finds them
	}
	if s.socket != nil {
		s.socket.Close() // served listeners are closed already
	}
	if s.tcp != nil {
		s.tcp.Close()
	}
	if s.machines != nil {
		s.machines.close()
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.blobs != nil {
		errs = append(errs, s.blobs.Close())
	}
	return errors.Join(errs...)
}
