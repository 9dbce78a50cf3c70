package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/docker"
	"github.com/penstock-ci/penstock/internal/imagetest"
	"github.com/penstock-ci/penstock/internal/layer"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"penstock": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"docker":   func() { os.Exit(docker.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }, // in machines
	})
}

// TestScripts plays a user's way through each command: testdata/script/*.txtar.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, ".home")
			e.Setenv("HOME", home)
			e.Setenv("XDG_CACHE_HOME", filepath.Join(home, ".cache"))
			e.Setenv("PATH", os.Getenv("PATH"))
			e.Setenv("NO_COLOR", "1")
			e.Setenv("GIT_CONFIG_NOSYSTEM", "1")
			return os.MkdirAll(home, 0o755)
		},
		Condition: func(name string) (bool, error) { // beside testscript's own
			if name != "root" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			return os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"repo": makeRepository, "registry": startRegistry, "image": makeImages, "example": copyExample,
			"serve": startServer, "halt": endServerBy(syscall.SIGTERM), "crash": endServerBy(syscall.SIGKILL), "started": waitStarted, "waiting": waitWaiting, "as": runAs, "browse": browse, "certificate": makeCertificate, "objects": startObjects, "join": joinRunner, "part": partRunner(true), "gone": partRunner(false), "fell": killRunner, "disk": smallDisk,
			"app": setApp, "settings": setSettings, "served": wantServed, "visit": startVisits, "await": awaitStatus},
	})
}

// makeImages puts images into the user's store: busybox, postgres:15 and redis:7 of what this machine has of them.
func makeImages(ts *testscript.TestScript, neg bool, args []string) {
	data := filepath.Join(ts.Getenv("XDG_CACHE_HOME"), "penstock")
	layers, err := layer.Open(filepath.Join(data, "layers"))
	ts.Check(err)
	defer layers.Close()
	store, err := openImages(data, layers, config.Images{})
	ts.Check(err)
	made := map[string]func() (*imagetest.Tree, v1.Config){"busybox": imagetest.Busybox, "postgres:15": imagetest.Postgres, "redis:7": imagetest.Redis,
		"busybox:1": imagetest.Busybox, "python:3.11-slim": imagetest.Python, "node:18": imagetest.Node}
	for _, name := range args {
		tree, config := made[name]()
		_, err := tree.Load(context.Background(), store, name, config)
		ts.Check(err)
	}
}

// copyExample copies the example application, without its workflows, and the pipeline that it stands for as its only one.
func copyExample(ts *testscript.TestScript, neg bool, args []string) {
	const from = "../../examples/prompt-stack"
	out, err := exec.Command("git", "-C", from, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	ts.Check(err)
	for _, name := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if strings.HasPrefix(name, ".github/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and not yet committed
		}
		ts.Check(err)
		if name == "pipelines/ci.yml" {
			name = ".github/workflows/ci.yml"
		}
		to := filepath.Join(ts.MkAbs(args[0]), name)
		ts.Check(os.MkdirAll(filepath.Dir(to), 0o755))
		ts.Check(os.WriteFile(to, text, 0o644))
	}
}

// makeRepository commits everything below the script's directory (or the one named) to a new repository.
func makeRepository(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(".")
	if len(args) > 0 {
		dir = ts.MkAbs(args[0])
	}
	for _, a := range [][]string{
		{"init", "-q", "-b", "main"},
		{"config", "user.name", "tester"},
		{"config", "user.email", "tester@localhost"},
		{"add", "--all", "--", ".", ":!.home"},
		{"commit", "-q", "--allow-empty", "-m", "first commit"},
	} {
		cmd := exec.Command("git", a...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			ts.Fatalf("git %v: %v\n%s", a, err, out)
		}
	}
	ts.Check(os.WriteFile(filepath.Join(dir, ".git", "info", "exclude"), fmt.Appendln(nil, "/.home"), 0o644))
}
