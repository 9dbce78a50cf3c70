package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/forge"
)

// runFlags are what `run` takes besides the trigger.
type runFlags struct {
	triggerFlags
	machineFlags
	secrets    []string
	secretFile string
	env        []string
	envFile    string
	asJSON     bool
	resume     bool
	noNative   bool
	writeBack  []string
	verbose    bool
}

func runCommand() *cobra.Command {
	var flags runFlags
	c := &cobra.Command{
		Use:   "run [EVENT]",
		Short: "Run the workflows that an event starts, and watch them",
		Long: `Run the workflows that an event starts: push, if none is named and a workflow has it. Each job gets a machine of its
own that has the tools of this one, and whose writes vanish with it: the working tree is never touched.

On a terminal you see a live tree of jobs and steps; in a pipe, plain lines; with --json, one event a line.
Ctrl-C cancels as GitHub does (steps with always() still run); twice ends everything at once.

Exit codes: 0 success, 1 the run failed, 2 bad usage or workflow, 130 cancelled.`,
		Example: `  penstock run                                   what a push would run
  penstock run -j test --matrix python:3.12      one job, one cell of its matrix
  penstock run workflow_dispatch --input environment=staging
  penstock run -s NPM_TOKEN                      a secret, taken from the environment
  penstock run --write-back dist                 bring dist/ of the workspace back into the working tree
  penstock run --resume                          go on from the step that failed, with the disk as it was`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.FixedCompletions(events, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(c *cobra.Command, args []string) error {
			return flags.run(c, strings.Join(args, ""))
		},
	}
	flags.triggerFlags.add(c)
	flags.machineFlags.add(c, "parallel")
	f := c.Flags()
	f.StringArrayVarP(&flags.secrets, "secret", "s", nil, "secret, `NAME[=VALUE]`; NAME alone takes it from the environment, or asks. With GITHUB_TOKEN jobs reach GitHub's own API; else what they write to it is recorded and told")
	f.StringVar(&flags.secretFile, "secret-file", ".secrets", "dotenv `FILE` with secrets")
	f.StringArrayVar(&flags.env, "env", nil, "environment of every step, `NAME[=VALUE]`")
	f.StringVar(&flags.envFile, "env-file", ".env", "dotenv `FILE` with environment of every step")
	f.BoolVar(&flags.asJSON, "json", false, "print one JSON event a line")
	f.BoolVar(&flags.resume, "resume", false, "go on with the last failed run of this repository, from the step that failed")
	f.BoolVar(&flags.noNative, "no-native", false, "run the original actions where Penstock has a version of its own")
	f.StringArrayVar(&flags.writeBack, "write-back", nil, "copy this `PATH` of the workspace back into the working tree when its job succeeds")
	f.BoolVarP(&flags.verbose, "verbose", "v", false, "show debug messages: as the secret ACTIONS_STEP_DEBUG=true")
	return c
}

func (f *runFlags) run(c *cobra.Command, event string) error {
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
	tr, err := f.prepare(ctx, c, event, actionsDir(m.data))
	if err != nil {
		return err
	}
	l, err := f.open(ctx, c, m, tr)
	if err != nil {
		return err
	}
	defer l.close()
	var runs []*ci.Run
	if f.resume {
		runs, err = l.resume(ctx)
	} else {
		runs, err = l.start(ctx, tr.plans)
	}
	if err != nil {
		return err
	}
	for _, n := range l.notes {
		fmt.Fprintln(c.ErrOrStderr(), "note: "+n)
	}
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	if err := l.watch(ctx, runs, f.view(c, l), interrupts); err != nil {
		return &exitError{exitFailed, err}
	}
	if err := l.tidy(context.WithoutCancel(ctx)); err != nil {
		fmt.Fprintf(c.ErrOrStderr(), "note: tidying up did not work: %v\n", err)
	}
	switch conclusionOf(runs) {
	case ci.Failure:
		return &exitError{exitFailed, nil}
	case ci.Cancelled:
		return &exitError{exitCancelled, nil}
	}
	return nil
}

// prepare finds out what runs. Nothing at all is an error that says why for each workflow.
func (f *runFlags) prepare(ctx context.Context, c *cobra.Command, event, actionsCache string) (*triggered, error) {
	if f.resume {
		if event != "" {
			return nil, withHint(errors.New("--resume goes on with a run that has its event already"), "leave the event out")
		}
		tree, err := forge.OpenWorkTree(ctx, f.dir)
		if err != nil {
			return nil, err
		}
		settings, err := config.Read(tree.Root)
		if err != nil {
			return nil, err
		}
		return &triggered{tree: tree, actions: f.actionSource(c, actionsCache, tree, settings), config: settings}, nil
	}
	tr, err := f.trigger(ctx, c, event, actionsCache)
	if err != nil {
		return nil, err
	}
	if len(tr.plans) == 0 {
		var why strings.Builder
		for _, s := range tr.skipped {
			fmt.Fprintf(&why, "\n  %s: %s", s.workflow.Path, safe(s.reason))
		}
		return nil, withHint(fmt.Errorf("no workflow runs on %s of %s:%s", tr.event.Match.Name, tr.tree.Branch(), why.String()),
			"name another event (penstock run pull_request), or a workflow with -W FILE, which asks for no branch or path")
	}
	return tr, nil
}

// view chooses how the run is shown.
func (f *runFlags) view(c *cobra.Command, l *local) view {
	out := c.OutOrStdout()
	if f.asJSON {
		return newJSONView(out)
	}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("CI") == "" {
		size := func() (int, int) {
			w, h, err := term.GetSize(int(file.Fd()))
			if err != nil || w <= 0 {
				return 80, 24
			}
			return w, h
		}
		return newTTYView(out, size, l.stepLog, os.Getenv("NO_COLOR") == "")
	}
	return newPlainView(out)
}

// readSecrets gathers secrets. A name without a value that the environment does not have either is asked for on
// the terminal, unseen.
func (f *runFlags) readSecrets(c *cobra.Command) (map[string]string, error) {
	var known, asked []string
	for _, s := range f.secrets {
		name, _, has := strings.Cut(s, "=")
		if _, inEnv := os.LookupEnv(name); has || inEnv || name == "" {
			known = append(known, s)
		} else {
			asked = append(asked, name)
		}
	}
	secrets, err := namedValues(known, f.secretFile, f.dir, "--secret")
	if err != nil {
		return nil, err
	}
	for _, name := range asked {
		value, err := askSecret(c, name)
		if err != nil {
			return nil, err
		}
		secrets[name] = value
	}
	upper := make(map[string]string, len(secrets)+1)
	for name, value := range secrets {
		upper[strings.ToUpper(name)] = value
	}
	if f.verbose {
		upper["ACTIONS_STEP_DEBUG"] = "true"
	}
	return upper, nil
}

func askSecret(c *cobra.Command, name string) (string, error) {
	file, ok := c.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return "", withHint(fmt.Errorf("--secret %s: no value, and the environment has no %s", name, name),
			fmt.Sprintf("write it as --secret %s=VALUE, set %s, or put it into a file for --secret-file", name, name))
	}
	fmt.Fprintf(c.ErrOrStderr(), "Value of the secret %s: ", name)
	value, err := term.ReadPassword(int(file.Fd()))
	fmt.Fprintln(c.ErrOrStderr())
	if errors.Is(err, io.EOF) {
		return "", nil
	}
	return string(value), err
}

// actionsDir is where fetched actions are cached.
func actionsDir(data string) string { return filepath.Join(data, "actions") }
