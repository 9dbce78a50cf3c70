// Command bench measures Penstock beside act in host mode and beside the plain commands that a job comes down to, and
// prints a Markdown table: what each took, the ratio, the target and whether it is met.
//
// All contestants of a case run in turn (A B A B) in one process's time, so that whatever else the machine does falls
// on all of them; medians are compared. It builds what it measures, works in a temporary directory of its own, and
// never touches the user's caches or history. Exit code 1 means that a case could not be measured, not that a target
// was missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// actVersion is the peer's release that the targets were set against.
const actVersion = "v0.2.87"

// cases in the order of the table.
var cases = []struct {
	name    string
	measure func(context.Context, *bench) error
}{
	{"echo", measureEcho},
	{"steps", measureSteps},
	{"machine", measureMachine},
	{"matrix", measureMatrix},
	{"log", measureLog},
	{"cache", measureCache},
	{"workspace", measureWorkspace},
	{"jobs", measureJobs},
	{"image", measureImage},
	{"build", measureBuild},
	{"docker", measureDocker},
	{"service", measureService},
	{"release", measureRelease},
	{"decision", measureDecision},
	{"artifact", measureArtifact},
	{"server", measureServer},
	{"streams", measureStreams},
	{"proxy", measureProxy},
	{"handover", measureHandOver},
	{"example", measureExample},
}

// bench is what all cases share.
type bench struct {
	runs     int    // how often each contestant is measured
	quick    bool   // small sizes: shows that the cases work, not how fast Penstock is
	dir      string // temporary, removed at the end
	penstock string // binary
	act      string // binary
	rows     []row
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	only := flag.String("run", "", "measure only the cases whose name matches this `regexp`")
	runs := flag.Int("n", 7, "measure each contestant `N` times, after one time that does not count")
	quick := flag.Bool("quick", false, "small sizes, to see that the cases work")
	penstock := flag.String("penstock", "", "measure this `BINARY`, rather than one built from the working tree")
	flag.Parse()
	if flag.Arg(0) == machineHelper && flag.NArg() == 3 {
		runs, err := strconv.Atoi(flag.Arg(2))
		if err != nil {
			return err
		}
		return measureMachinesHere(ctx, flag.Arg(1), runs)
	}
	if helper := proxyHelpers[flag.Arg(1)]; flag.Arg(0) == proxyHelper && helper != nil {
		return helper(ctx, flag.Args()[2:])
	}
	if flag.Arg(0) == keeperHelper && flag.NArg() == 2 {
		return keepInstance(flag.Arg(1))
	}
	pattern, err := regexp.Compile(*only)
	if err != nil || flag.NArg() > 0 || *runs < 1 {
		flag.Usage()
		return errors.New("bad usage")
	}

	b := &bench{runs: *runs, quick: *quick}
	if *penstock != "" {
		if b.penstock, err = filepath.Abs(*penstock); err != nil {
			return err
		}
	}
	if b.dir, err = os.MkdirTemp("", "penstock-bench-"); err != nil {
		return err
	}
	defer removeAll(b.dir)
	if err := b.build(ctx); err != nil {
		return err
	}
	var failed []error
	for _, c := range cases {
		if !pattern.MatchString(c.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s\n", c.name)
		if err := c.measure(ctx, b); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", c.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	printTable(os.Stdout, b.rows)
	return errors.Join(failed...)
}

// build makes the binaries of both sides: ours from the working tree, the peer's from the module proxy into .bin.
func (b *bench) build(ctx context.Context) error {
	root, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	if b.penstock == "" {
		b.penstock = filepath.Join(b.dir, "penstock")
		if _, err := output(ctx, "go", "build", "-o", b.penstock, root+"/cmd/penstock"); err != nil {
			return err
		}
	}
	b.act = filepath.Join(root, ".bin", "act-"+actVersion)
	if _, err := os.Stat(b.act); err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "building act %s\n", actVersion)
	cmd := exec.CommandContext(ctx, "go", "install", "github.com/nektos/act@"+actVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+b.dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build act: %w\n%s", err, out)
	}
	if err := os.MkdirAll(filepath.Dir(b.act), 0o755); err != nil {
		return err
	}
	_, err = output(ctx, "cp", filepath.Join(b.dir, "act"), b.act)
	return err
}

// size chooses between the size that the targets speak of and a small one.
func (b *bench) size(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

// output runs a command to its end and gives what it printed, without the last line break.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w\n%s", err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// removeAll removes a directory even where a job left directories that may not be written to.
func removeAll(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	}
}
