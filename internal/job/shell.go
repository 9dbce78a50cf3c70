package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Terminal is where a shell is opened.
type Terminal struct {
	Command        []string // run this instead of an interactive shell
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Raw makes the terminal that Stdin and Stdout are carry keys only, while the shell has one of its own inside; nil
	// if they are none.
	Raw func() (restore func(), err error)
}

// silent is the reporter of a machine that is opened for somebody to look at.
type silent struct{}

func (silent) Report(context.Context, ci.Report) error { return nil }
func (silent) Append(context.Context, []byte) error    { return nil }

// Shell opens the machine of a step as it was before the step: t.Resume says which. It ends with the shell, whose
// failure is a *sandbox.ExitError; what was changed inside is gone.
func (x *Executor) Shell(ctx context.Context, t *ci.Task, at Terminal) error {
	if t.Resume == nil {
		return errors.New("the task names no step to open")
	}
	e := &execution{x: x, t: t, rep: silent{}, mask: newMasker(), counts: map[countKey]int{}, background: map[string]*backgroundStep{},
		actions: map[string]*action{}, status: succeeded, ctx: context.WithoutCancel(ctx), interrupt: ctx, slots: make(chan struct{}, maxBackground)}
	e.log = &jobLog{ctx: ctx, rep: e.rep, mask: e.mask}
	defer func() {
		if e.sb != nil {
			e.sb.Close(e.ctx)
		}
	}()
	if err := e.setUp(ctx); err != nil {
		return err
	}
	if e.hasServices() {
		if err := e.startServices(ctx); err != nil {
			return err
		}
	}
	rest, err := e.restore(ctx, t.Resume, e.mainSteps())
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return errors.New("the workflow has fewer steps now than were done")
	}
	r := e.newRun(rest[0])
	env, dir, script, err := e.shellEnvironment(ctx, r)
	if err != nil {
		return err
	}
	args := at.Command
	if len(args) == 0 {
		args = []string{"bash"}
		if e.lookUp("bash") == "" {
			args = []string{"sh"}
		}
		fmt.Fprintf(at.Stderr, "%s, as it was before %q. Leave with exit; what you change here is gone then.\n", t.Name, e.displayName(r.plannedStep))
		if script != "" {
			fmt.Fprintf(at.Stderr, "The step's script is at $PENSTOCK_STEP_SCRIPT.\n")
		}
	}
	if at.Raw != nil {
		restore, err := at.Raw()
		if err != nil {
			return fmt.Errorf("prepare the terminal: %w", err)
		}
		defer restore()
	}
	return e.sb.Exec(ctx, sandbox.Command{Args: args, Env: sortedEnv(env), Dir: dir, User: e.user, Stdin: at.Stdin, Stdout: at.Stdout, Stderr: at.Stderr, TTY: at.Raw != nil})
}

// shellEnvironment is the environment and directory that the step would have, and where its script lies.
func (e *execution) shellEnvironment(ctx context.Context, r *stepRun) (env map[string]string, dir, script string, err error) {
	if err := e.stepEnv(r); err != nil {
		return nil, "", "", err
	}
	files, err := e.openFiles(ctx, r)
	if err != nil {
		return nil, "", "", err
	}
	env = e.processEnv(r, files)
	dir = e.info.Workspace
	if r.def.Run == nil {
		return env, dir, "", nil
	}
	text, sh, dir, err := e.script(r)
	if err != nil {
		return nil, "", "", err
	}
	script = path.Join(e.info.Files, "step"+shellExtensions[sh.name])
	env["PENSTOCK_STEP_SCRIPT"] = script
	return env, dir, script, sandbox.WriteFile(ctx, e.sb, script, []byte(sh.fixUp(text)), 0o755)
}
