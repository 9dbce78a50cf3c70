package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

func shellCommand() *cobra.Command {
	var flags runFlags
	var id string
	c := &cobra.Command{
		Use:   "shell [-- COMMAND...]",
		Short: "Open the last failed step as it was",
		Long: `Open a shell in the machine of the last failed step of this repository's last run: the disk as it was before the step,
the step's environment, its working directory. With a command, run that instead. Whatever you change is gone when you leave;
penstock run --resume goes on from the same disk.

Secrets are not kept: name them again with -s, or those in .secrets are there.`,
		Example: "  penstock shell\n  penstock shell --run 12 -j test\n  penstock shell -- cat build.log",
		RunE: func(c *cobra.Command, args []string) error {
			return flags.shell(c, id, args)
		},
	}
	f := c.Flags()
	f.StringVarP(&flags.dir, "directory", "C", ".", "work in `DIR`, a repository or a directory inside one")
	f.StringVar(&id, "run", "", "the `RUN` to open, as penstock runs lists it")
	f.StringArrayVarP(&flags.jobs, "job", "j", nil, "the failed `JOB` to open, if several failed")
	f.StringArrayVarP(&flags.secrets, "secret", "s", nil, "secret, `NAME[=VALUE]`")
	f.StringVar(&flags.secretFile, "secret-file", ".secrets", "dotenv `FILE` with secrets")
	f.StringVar(&flags.actionsURL, "actions-url", forge.DefaultActionsURL, "where actions are fetched from")
	flags.sandbox, flags.parallel = "auto", 1
	return c
}

func (f *runFlags) shell(c *cobra.Command, id string, command []string) error {
	ctx := c.Context()
	data, err := dataDir()
	if err != nil {
		return err
	}
	m, err := f.openMachines(data)
	if err != nil {
		return err
	}
	defer m.close()
	tree, err := forge.OpenWorkTree(ctx, f.dir)
	if err != nil {
		return err
	}
	settings, err := config.Read(tree.Root)
	if err != nil {
		return err
	}
	l, err := f.open(ctx, c, m, &triggered{tree: tree, actions: f.actionSource(c, actionsDir(m.data), tree, settings), config: settings})
	if err != nil {
		return err
	}
	defer l.close()
	var run ci.RunID
	if id != "" {
		if run, err = parseRunID(id); err != nil {
			return err
		}
	}
	p, err := l.history.load(run, tree.Root)
	if err != nil {
		return err
	}
	j, at, err := f.chooseFailed(p.Run)
	if err != nil {
		return err
	}
	task, err := l.reopen(ctx, p.Run, j, at)
	if err != nil {
		return err
	}
	err = l.executor.Shell(ctx, task, job.Terminal{Command: command, Stdin: c.InOrStdin(), Stdout: c.OutOrStdout(), Stderr: c.ErrOrStderr(), Raw: rawMode(c)})
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return &exitError{exit.Code, nil}
	}
	return err
}

// rawMode switches the terminal to carrying keys only, and back; nil if the command is not on one.
func rawMode(c *cobra.Command) func() (restore func(), err error) {
	in, ok := c.InOrStdin().(*os.File)
	out, ok2 := c.OutOrStdout().(*os.File)
	if !ok || !ok2 || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		return nil
	}
	return func() (func(), error) {
		before, err := term.MakeRaw(int(in.Fd()))
		return func() { _ = term.Restore(int(in.Fd()), before) }, err
	}
}

// chooseFailed finds the failed job that can be opened, that of -j if one is named.
func (f *runFlags) chooseFailed(r *ci.Run) (*ci.Job, *ci.Resume, error) {
	jobs := r.Jobs
	if len(f.jobs) > 0 {
		var err error
		if jobs, err = chooseJobs(r, f.jobs[0]); err != nil {
			return nil, nil, err
		}
	}
	for _, j := range jobs {
		if at := job.ResumeAt(r, j); at != nil {
			return j, at, nil
		}
	}
	if _, s := failedStep(r); s != nil {
		return nil, nil, withHint(fmt.Errorf("the disk before '%s' of run %d was not kept", s.Name, r.ID),
			"disks are kept in the host sandbox, while no background process of the job is alive")
	}
	return nil, nil, withHint(fmt.Errorf("no step of run %d failed", r.ID), "penstock runs lists other runs; open one with --run")
}

// reopen makes the task of a failed job again, as a re-run would, in an engine that nobody else sees.
func (l *local) reopen(ctx context.Context, r *ci.Run, j *ci.Job, at *ci.Resume) (*ci.Task, error) {
	if err := l.begin(ctx, r.ID); err != nil {
		return nil, err
	}
	if err := l.engine.Import(ctx, r); err != nil {
		return nil, err
	}
	again := ci.Rerun{By: l.tree.Actor, Jobs: []ci.JobID{j.ID}, Resume: map[ci.JobID]ci.Resume{j.ID: *at}}
	if err := l.engine.Update(ctx, r.ID, again); err != nil {
		return nil, err
	}
	return l.engine.Lease(ctx, runner.Runner{Name: hostName()})
}
