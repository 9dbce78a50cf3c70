package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/examples"
)

// demoFlags are what `demo` takes.
type demoFlags struct {
	data    string
	listen  string
	proxy   string
	browser bool
}

func demoCommand() *cobra.Command {
	var f demoFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Start a server with an example in it, to look around",
		Long: `Start a server with an example application in it: it is pushed, its workflows run, and a pull request is open. What they have
built is released: to staging, to production once that is approved, a good change as a canary that is promoted, and a bad one that
is taken back at its first step. Ctrl-C ends it, and everything of it is removed, unless --data names where it is kept.

The example has a back end in Python and a front end in Node.js. Its jobs need git, python3 with venv, and Node.js 20.19 or
newer on this machine, and fetch its dependencies; without, they fail and say what is missing.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	c.Flags().StringVar(&f.data, "data", "", "keep everything in this `DIR`, new or empty")
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:0", "listen at this `HOST:PORT`; port 0 takes a free one")
	c.Flags().StringVar(&f.proxy, "proxy", "127.0.0.1:0", "the proxy of what is released listens at this `HOST:PORT`; port 0 takes a free one")
	c.Flags().BoolVar(&f.browser, "browser", true, "open the page in a browser, if there is a desktop")
	return c
}

func (f *demoFlags) run(c *cobra.Command) (err error) {
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if _, err := exec.LookPath("git"); err != nil {
		return withHint(errors.New("git is not here"), "install git: Penstock serves repositories by it")
	}
	dir := f.data
	if dir == "" {
		if dir, err = os.MkdirTemp("", "penstock-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	repository := filepath.Join(dir, "prompt-stack")
	if err := makeExample(ctx, repository); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	serve, file := serveCommand(), filepath.Join(dir, "ready")
	serve.SetErr(log)
	data := filepath.Join(dir, "server")
	serve.SetArgs([]string{"--data", data, "--listen", f.listen, "--proxy", f.proxy, "--ready-file", file, "--drain", "1s"})
	ctx, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan error, 1)
	go func() { ended <- serve.ExecuteContext(ctx) }()
	told, err := awaitReady(ctx, file, ended)
	if err == nil {
		err = f.show(ctx, repository, told, c.OutOrStdout())
	}
	if err == nil {
		t := &tour{ready: told, repository: repository, out: c.OutOrStdout()}
		t.url, t.token, t.releaseFlags.repository = told.URL, told.Token, demoRepository
		if err := t.run(ctx); err != nil && ctx.Err() == nil {
			t.tell("the tour ends here: %v", err)
		}
	} else {
		end()
	}
	err = errors.Join(err, <-ended)
	return errors.Join(err, stopReleased(context.WithoutCancel(ctx), data))
}

// makeExample makes a repository of the example.
func makeExample(ctx context.Context, dir string) error {
	files, err := fs.Sub(examples.PromptStack, "prompt-stack")
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, files); err != nil {
		return withHint(err, "--data must name a new directory, or an empty one")
	}
	return gitIn(ctx, dir, []string{"init", "--quiet", "--initial-branch", "main"}, []string{"config", "user.name", "Demo"},
		[]string{"config", "user.email", "demo@localhost"}, []string{"add", "."}, []string{"commit", "--quiet", "--message", "Begin Prompt-Stack"})
}

func gitIn(ctx context.Context, dir string, commands ...[]string) error {
	for _, args := range commands {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

// awaitReady waits until a server has written its ready file.
func awaitReady(ctx context.Context, file string, ended chan error) (ready, error) {
	var told ready
	for {
		text, err := os.ReadFile(file)
		if err == nil {
			return told, json.Unmarshal(text, &told)
		}
		select {
		case err := <-ended:
			ended <- nil // for who waits for it
			return told, err
		case <-ctx.Done():
			return told, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// show pushes the example, opens a pull request, and tells where to look.
func (f *demoFlags) show(ctx context.Context, repository string, told ready, out io.Writer) error {
	if ctx.Err() != nil {
		return nil
	}
	remote := strings.Replace(told.URL, "://", "://x:"+told.Token+"@", 1) + "/demo/prompt-stack"
	if err := gitIn(ctx, repository, []string{"remote", "add", "origin", remote}, []string{"push", "--quiet", "origin", "main"}, []string{"checkout", "--quiet", "-b", "greeting"}); err != nil {
		return err
	}
	if err := guard(ctx, told); err != nil {
		return err
	}
	readme := filepath.Join(repository, "README.md")
	text, err := os.ReadFile(readme)
	if err == nil {
		err = os.WriteFile(readme, append(text, "\nSay hello.\n"...), 0o644)
	}
	if err == nil {
		err = gitIn(ctx, repository, []string{"commit", "--quiet", "--all", "--message", "Say hello in the README [skip ci]"}, []string{"push", "--quiet", "origin", "HEAD:refs/for/main"},
			[]string{"checkout", "--quiet", "main"})
	}
	if err != nil {
		return err
	}
	page := told.URL + "/demo/prompt-stack/actions#token=" + told.Token
	fmt.Fprintf(out, `The example is at %s; it was pushed, and runs:

  %s

Change something there, commit it and git push. Or ask by gh:

  gh config set http_unix_socket %s
  GH_HOST=penstock.local GH_ENTERPRISE_TOKEN=%s gh run list -R penstock.local/demo/prompt-stack

What is released is found at http://prompt-stack.localhost:%s once it is. Ctrl-C ends the server.

`, repository, page, told.Socket, told.Token, portOf(told.ProxyURL))
	if f.browser {
		openBrowser(ctx, page)
	}
	return nil
}

func portOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Port()
}

// openBrowser shows a page, if there is a desktop to show it on.
func openBrowser(ctx context.Context, page string) {
	program := ""
	switch {
	case runtime.GOOS == "darwin":
		program = "open"
	case os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "":
		program = "xdg-open"
	default:
		return
	}
	_ = exec.CommandContext(ctx, program, page).Run() // the address was told, too
}
