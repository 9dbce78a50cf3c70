package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

// local is a whole Penstock in this process: an engine on an in-memory store, a runner and its sandboxes, and the
// history that stays.
type local struct {
	*machines
	tree     *forge.WorkTree
	config   *config.Config
	history  *history
	store    *store.Store
	engine   *engine.Engine
	executor *job.Executor
	github   *api.LocalGitHub
	secrets  map[string]string
	parallel int
	notes    []string // for the user, once

	work sync.WaitGroup // the engine's own work and the runner
	stop context.CancelFunc
}

// open makes everything ready that runs stand on.
func (f *runFlags) open(ctx context.Context, c *cobra.Command, m *machines, tr *triggered) (*local, error) {
	l := &local{machines: m, tree: tr.tree, config: tr.config, parallel: f.parallel}
	if f.parallel < 1 {
		return nil, withHint(fmt.Errorf("--parallel %d: at least one job must run", f.parallel), "leave it out for one job a core")
	}
	for _, path := range f.writeBack {
		if !filepath.IsLocal(path) {
			return nil, withHint(fmt.Errorf("--write-back %s: the path leads out of the workspace", path), "name it relative to the workspace, e.g. --write-back dist")
		}
	}
	var err error
	if l.secrets, err = f.readSecrets(c); err != nil {
		return nil, err
	}
	env, err := namedValues(f.env, f.envFile, f.dir, "--env")
	if err != nil {
		return nil, err
	}
	if l.history, err = openHistory(m.data); err != nil {
		return nil, err
	}
	l.history.layers = m.layers
	if l.store, err = store.Open(ctx, "sqlite::memory:"); err != nil {
		l.close()
		return nil, err
	}
	if l.executor, l.notes, err = m.executor(&f.machineFlags, l.config, l.history.blobs, tr.actions); err != nil {
		l.close()
		return nil, err
	}
	tree := api.LocalRepository{Root: l.tree.Root, Name: l.tree.Repository, DefaultBranch: l.tree.DefaultBranch, Web: l.tree.ServerURL + "/" + l.tree.Repository}
	if l.github, err = api.NewLocalGitHub(l.store, tree, filepath.Join(m.data, "tmp")); err != nil {
		l.close()
		return nil, err
	}
	x := l.executor
	x.Native, x.Env, x.State, x.WriteBack = !f.noNative, env, l.history, f.writeBack
	x.Host.WorkTree = &native.WorkTree{Dir: l.tree.Root, Repository: l.tree.Repository}
	x.Services = api.NewRuntime(l.history.blobs, x.Host.Artifacts, l.tree.Root, l.github)
	return l, nil
}

func (l *local) close() {
	if l.stop != nil {
		l.stop()
	}
	l.work.Wait()
	if l.github != nil {
		l.github.Close()
	}
	if l.store != nil {
		l.store.Close()
	}
	if l.history != nil {
		l.history.blobs.Close()
	}
}

// begin starts the engine and the runner; runs that are triggered from now on are worked on.
func (l *local) begin(ctx context.Context, first ci.RunID) error {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	e, err := engine.New(ctx, l.store, l.history.blobs, engine.Options{
		FirstRun: first, Log: quiet,
		Secrets: func(context.Context, string, string) (map[string]string, error) { return l.secrets, nil },
		Token:   func(context.Context, *ci.Task) (string, error) { return l.secrets["GITHUB_TOKEN"], nil },
	})
	l.engine = e
	return err
}

// work starts what carries the runs forward.
func (l *local) startWork(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	l.work.Go(func() { _ = l.engine.Work(ctx) })
	l.work.Go(func() { _ = runner.Work(ctx, l.engine, runner.Runner{Name: hostName()}, l.parallel, l.executor) })
}

// start triggers a run for each plan.
func (l *local) start(ctx context.Context, plans []*ci.Plan) ([]*ci.Run, error) {
	first, err := l.history.allocate(len(plans))
	if err != nil {
		return nil, err
	}
	if err := l.begin(ctx, first); err != nil {
		return nil, err
	}
	var runs []*ci.Run
	for _, p := range plans {
		id, err := l.engine.Trigger(ctx, p)
		if err != nil {
			return nil, err
		}
		r, err := l.engine.Run(ctx, id)
		if err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// resume takes the last run of this repository up again where it failed.
func (l *local) resume(ctx context.Context) ([]*ci.Run, error) {
	p, err := l.history.load(0, l.tree.Root)
	if err != nil {
		return nil, err
	}
	r := p.Run
	if r.Status == ci.Completed && r.Conclusion != ci.Failure && r.Conclusion != ci.Cancelled {
		return nil, withHint(fmt.Errorf("run %d did not fail: there is nothing to go on with", r.ID), "penstock run starts a new one")
	}
	if err := l.begin(ctx, r.ID); err != nil {
		return nil, err
	}
	if err := l.engine.Import(ctx, r); err != nil {
		return nil, err
	}
	again := ci.Rerun{By: l.tree.Actor, Failed: true, Resume: map[ci.JobID]ci.Resume{}}
	for _, j := range r.Jobs {
		if at := job.ResumeAt(r, j); at != nil {
			again.Resume[j.ID] = *at
		}
	}
	if err := l.engine.Update(ctx, r.ID, again); err != nil {
		return nil, err
	}
	run, err := l.engine.Run(ctx, r.ID)
	return []*ci.Run{run}, err
}

// stepLog reads the log of a step that has ended.
func (l *local) stepLog(r *ci.Run, j *ci.Job, s *ci.Step) []byte {
	f, err := l.engine.Log(r.ID, j.Attempt, j.ID)
	if f == nil || err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, s.LogStart, s.LogEnd-s.LogStart))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return data
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "here"
	}
	return name
}
