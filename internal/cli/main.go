// Package cli is the command line: one file a command, and the only place where the rooms are wired together.
// It parses flags, calls, and shows; it decides nothing about runs.
//
// stdout is for data, stderr for talk. Errors read "penstock: ..." then "hint: ...".
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// Exit codes of every command.
const (
	exitOK        = 0
	exitFailed    = 1   // the run failed
	exitUsage     = 2   // bad usage, or a workflow that can not be read
	exitCancelled = 130 // ended by Ctrl-C
)

// exitError ends a command with a code; a nil cause has been told already.
type exitError struct {
	code  int
	cause error
}

func (e *exitError) Error() string {
	if e.cause == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.cause.Error()
}

func (e *exitError) Unwrap() error { return e.cause }

// hinted is an error with what to do next.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// withHint adds what to do next to an error.
func withHint(err error, hint string) error { return &hinted{err, hint} }

// Main runs one command line and gives its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return run(context.Background(), args, stdin, stdout, stderr)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(numbersLast(args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{exitUsage, err}
	}
	if exit.cause != nil {
		tell(stderr, exit.cause)
	}
	return exit.code
}

// tell writes an error as people read it. Mistakes in a workflow stand one a line, each with its place.
func tell(stderr io.Writer, err error) {
	var mistakes workflow.Errors
	if errors.As(err, &mistakes) {
		for _, m := range mistakes {
			fmt.Fprintln(stderr, m)
		}
		noun := "mistakes"
		if len(mistakes) == 1 {
			noun = "mistake"
		}
		fmt.Fprintf(stderr, "penstock: %d %s in the workflow; nothing was run\n", len(mistakes), noun)
		return
	}
	var settings config.Errors
	if errors.As(err, &settings) {
		for _, m := range settings {
			fmt.Fprintln(stderr, m)
		}
		err = withHint(errors.New(config.Name+" can not be used; nothing was run"), "penstock lint checks it")
	}
	fmt.Fprintf(stderr, "penstock: %s\n", strings.TrimSpace(err.Error()))
	var h *hinted
	if errors.As(err, &h) {
		fmt.Fprintf(stderr, "hint: %s\n", h.hint)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "penstock",
		Short: "Run GitHub Actions workflows here and now",
		Long: `Penstock runs the GitHub Actions workflows a repository already has, on this machine or for a team, with no Docker and
no configuration.

  penstock run          run what a push would run, and watch it
  penstock plan         what would run, in what order, and why the rest would not
  penstock shell        open the last failed step as it was: same disk, same environment
  penstock run --resume go on from the step that failed
  penstock serve        git, runs and GitHub's API for a team, at one address`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := "penstock --help lists the commands"
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "did you mean penstock " + strings.Join(near, " or penstock ") + "?"
			}
			return withHint(fmt.Errorf("'%s' is no command", args[0]), hint)
		},
		SuggestionsMinimumDistance: 2,
		RunE: func(c *cobra.Command, _ []string) error {
			return c.Help()
		},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return withHint(err, fmt.Sprintf("%s --help lists the flags", c.CommandPath()))
	})
	root.AddCommand(runCommand(), planCommand(), listCommand(), lintCommand(), evalCommand(),
		runsCommand(), logsCommand(), shellCommand(), imageCommand(), registryCommand(), serveCommand(), demoCommand(), runnerCommand(), userCommand(), tokenCommand(), auditCommand(), deployCommand(), statusCommand(), historyCommand(), rollbackCommand(), removeCommand(), healthCommand(), keyCommand(), backupCommand(), restoreCommand(), instanceCommand(), stopCommand(), proxyCommand(), versionCommand())
	root.AddCommand(steerCommands()...)
	return root
}
