package forge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// serveUntilKilled serves a directory of repositories, and never comes back from being told of a push.
func serveUntilKilled(dir string) error {
	h, err := OpenHosted(dir, HostedOptions{Pushed: func(context.Context, Push) ([]string, error) {
		if err := os.WriteFile(filepath.Join(dir, ".mark"), nil, 0o600); err != nil {
			return nil, err
		}
		select {}
	}})
	if err != nil {
		return err
	}
	if hook := os.Getenv("TEST_HOOK"); hook != "" {
		if err := os.WriteFile(filepath.Join(h.hooks(), hook), []byte(os.Getenv("TEST_SCRIPT")), 0o700); err != nil {
			return err
		}
	}
	s := &site{Hosted: h, may: func(Change) error { return nil }}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	fmt.Println(server.URL)
	select {}
}

// TestHostedCrash kills the server at the moments that matter: a push is told of by its successor, once and only if it
// happened, also where git outlives the server and changes the refs after.
func TestHostedCrash(t *testing.T) {
	const wait = `while [ ! -e "$MARK-go" ]; do sleep 0.01; done`
	for _, c := range []struct {
		name, hook, script string
		lives              bool // git goes on after the server is dead
		happened           bool
	}{
		{name: "the push is told of", happened: true},
		{name: "the refs have changed", hook: "post-receive", script: "#!/bin/sh\n: >\"$MARK\"\nread -r _ <&4\n", happened: true},
		{name: "the refs are about to change", hook: "reference-transaction", lives: true, happened: true,
			script: "#!/bin/sh\n[ \"$1\" = prepared ] || exit 0\n: >\"$MARK\"\n" + wait + "\n"},
		{name: "the refs are about to be refused", hook: "reference-transaction", lives: true,
			script: "#!/bin/sh\n[ \"$1\" = prepared ] || exit 0\n: >\"$MARK\"\n" + wait + "\nexit 1\n"},
		{name: "the push is not yet in the journal", hook: "pre-receive", script: "#!/bin/sh\n: >\"$MARK\"\nread -r _ <&4\nexit 1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := openSite(t, dir)
			b, err := s.Create(t.Context(), "acme/app", "main")
			if err != nil {
				t.Fatal(err)
			}
			a := s.clone(t, "acme/app")
			one := a.commit("a", "1", "one")
			mark := filepath.Join(dir, ".mark")
			kill := startVictim(t, dir, a, "TEST_HOOK="+c.hook, "TEST_SCRIPT="+c.script, "MARK="+mark)
			waitFor(t, mark)
			kill()
			s = openSite(t, dir) // puts its own hooks in place again
			if c.hook == "reference-transaction" {
				if err := os.Remove(filepath.Join(s.hooks(), c.hook)); err != nil {
					t.Fatal(err)
				}
			}
			if c.lives {
				brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if err := s.Recover(brief); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the push was judged while git still changes refs: %v", err)
				}
				if err := os.WriteFile(mark+"-go", nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			var want []string
			if c.happened {
				want = []string{"1 refs/heads/main 0000000 " + one[:7]}
			}
			wantChanges(t, s.told(), want...)
			if sha, err := b.Resolve(t.Context(), "refs/heads/main"); err != nil || (sha == one) != c.happened {
				t.Errorf("the branch is %q, %v", sha, err)
			}
			if err := s.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantChanges(t, s.told())
			two := a.commit("a", "2", "two")
			a.git("push", "-q", s.url+"/acme/app", "HEAD:refs/heads/next") // the origin is the server of before
			wantChanges(t, s.told(), fmt.Sprintf("%d refs/heads/next 0000000 %.7s", len(want)+1, two))
		})
	}
}

// startVictim starts a server of its own and a push to it, and gives what kills the server.
func startVictim(t *testing.T, dir string, a *tree, env ...string) (kill func()) {
	t.Helper()
	victim := exec.Command(os.Args[0])
	victim.Env = append(append(os.Environ(), "TEST_SERVE="+dir), env...)
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	victim.Stderr = os.Stderr
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	url := bufio.NewScanner(out)
	if !url.Scan() {
		t.Fatal("the server did not start")
	}
	push := gitCommand(a.dir, "push", "-q", url.Text()+"/acme/app", "HEAD:main")
	if err := push.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := victim.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = victim.Wait() // it was killed
		if err := push.Wait(); err == nil {
			t.Error("a push was acknowledged that was never told of")
		}
	}
}

func waitFor(t *testing.T, file string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
	}
	t.Fatal("nothing came")
}

// TestHostedTellsLater holds that a push is stored though nobody takes the news, and told of once somebody does, in order.
func TestHostedTellsLater(t *testing.T) {
	s, _ := newSite(t)
	a := s.clone(t, "acme/app")
	away := errors.New("the database is away")
	s.failWith(away)
	one := a.commit("a", "1", "one")
	if out := a.git("push", "origin", "HEAD:main"); !contains(out, "start later", "the database is away") {
		t.Errorf("the pusher was told: %s", out)
	}
	two := a.commit("a", "2", "two")
	a.git("push", "-q", "origin", "HEAD:main")
	if err := s.Recover(t.Context()); !errors.Is(err, away) {
		t.Errorf("recover: %v", err)
	}
	s.failWith(nil)
	three := a.commit("a", "3", "three")
	a.git("push", "-q", "origin", "HEAD:main")
	wantChanges(t, s.told(), "1 refs/heads/main 0000000 "+one[:7], "2 refs/heads/main "+one[:7]+" "+two[:7], "3 refs/heads/main "+two[:7]+" "+three[:7])
}
