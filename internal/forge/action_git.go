package forge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// maxFetch bounds everything that one Resolve does at a server.
const maxFetch = 10 * time.Minute

// maxGitAnswer bounds what is kept of git's answers, bytes: the list of the refs of a very large repository.
const maxGitAnswer = 64 << 20

// gitCall is one run of git on a repository that nobody has looked at yet.
type gitCall struct {
	dir    string
	args   []string
	stdout io.Writer // nil: the answer is given back
	quiet  bool      // without the user's configuration, which may run programs on the files
}

// runGit runs git so that a repository can not run anything here: no hooks, no prompts, no transports but the usual
// ones, none of the variables of a git that may have called us. Its error is what git said.
func runGit(ctx context.Context, call gitCall) (string, error) {
	args := append([]string{"-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "maintenance.auto=false",
		"-c", "protocol.version=2", "-c", "core.fsmonitor=false", "-c", "submodule.recurse=false"}, call.args...)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = call.dir
	cmd.Env = append(outsideGit(os.Environ()), "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=", "GCM_INTERACTIVE=Never",
		"GIT_ALLOW_PROTOCOL=https:http:ssh:git:file", "GIT_LFS_SKIP_SMUDGE=1", "LC_ALL=C")
	if os.Getenv("GIT_SSH_COMMAND") == "" {
		cmd.Env = append(cmd.Env, "GIT_SSH_COMMAND=ssh -o BatchMode=yes")
	}
	if call.quiet {
		cmd.Env = append(cmd.Env, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_ATTR_NOSYSTEM=1")
	}
	cmd.WaitDelay = 5 * time.Second
	answer, said := &bounded{max: maxGitAnswer}, &bounded{max: 16 << 10}
	cmd.Stdout, cmd.Stderr = answer, said
	if call.stdout != nil {
		cmd.Stdout = call.stdout
	}
	err := cmd.Run()
	switch {
	case err == nil && answer.over:
		return "", fmt.Errorf("git %s: an answer of more than %d bytes", call.args[0], maxGitAnswer)
	case err == nil:
		return strings.TrimSpace(answer.String()), nil
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("git is not installed: %w", err)
	case ctx.Err() != nil:
		return "", fmt.Errorf("git %s: %w", call.args[0], context.Cause(ctx))
	}
	if text := lastLines(said.String(), 4); text != "" {
		return "", errors.New(text)
	}
	return "", fmt.Errorf("git %s: %w", call.args[0], err)
}

// outsideGit is an environment without the variables that bind git to one repository or to extra configuration.
func outsideGit(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
			"GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_TRACE", "GIT_EXEC_PATH":
			return true
		}
		return false
	})
}

// boilerplate is what git says after its reason whatever the reason is.
var boilerplate = []string{"Could not read from remote repository.", "Please make sure you have the correct access rights", "and the repository exists."}

// lastLines gives the last lines of what git said, without its prefixes.
func lastLines(text string, n int) string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		for _, prefix := range []string{"fatal: ", "error: ", "remote: "} {
			line = strings.TrimPrefix(line, prefix)
		}
		if line != "" && !slices.Contains(boilerplate, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// bounded is a buffer that drops what is over its limit and remembers that it did.
type bounded struct {
	kept bytes.Buffer // not embedded: its ReadFrom would take everything
	max  int
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.max - b.kept.Len(); len(p) > room {
		b.over = true
		b.kept.Write(p[:room])
		return len(p), nil
	}
	return b.kept.Write(p)
}

func (b *bounded) String() string { return b.kept.String() }
