package forge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bare is one hosted repository.
type Bare struct {
	Name string // OWNER/NAME as it was asked for
	host *Hosted
	dir  string
}

func (h *Hosted) bare(name, dir string) *Bare { return &Bare{Name: name, host: h, dir: dir} }

// Dir is the bare repository's directory, for who reads it with git.
func (b *Bare) Dir() string { return b.dir }

func (b *Bare) journal() string  { return filepath.Join(b.dir, "penstock", "pushes") }
func (b *Bare) lockFile() string { return filepath.Join(b.dir, "penstock", "lock") }

// settings are the configuration of all hosted repositories. They are given with every call, so that a repository
// needs none of its own and a newer binary changes them everywhere.
//
// What is acknowledged must be on the disk: git's own default does not write refs through. Objects are checked as they
// come, but for the mistakes that old and honest histories have. git gc runs from Maintain alone: started by a push it
// would run beside the next one. refs/pull is ours: all see it, nobody pushes to it.
var settings = [][2]string{
	{"core.fsync", "committed,loose-object,reference"},
	{"core.fsyncMethod", "batch"},
	{"safe.directory", "*"},
	{"gc.auto", "0"},
	{"receive.autogc", "false"},
	{"receive.fsckObjects", "true"},
	{"receive.fsck.zeroPaddedFilemode", "warn"},
	{"receive.fsck.badTimezone", "warn"},
	{"receive.fsck.missingSpaceBeforeDate", "warn"},
	{"receive.advertisePushOptions", "true"},
	{"receive.hideRefs", "refs/pull"},
	{"receive.denyCurrentBranch", "ignore"},
	{"receive.denyDeleteCurrent", "refuse"},
	{"uploadpack.allowAnySHA1InWant", "true"},
	{"uploadpack.allowFilter", "true"},
	{"uploadpack.hideRefs", forPrefix},
}

// environment is that of every git: ours alone, whatever the machine's users have configured.
func environment(more ...[2]string) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "GIT_") {
			env = append(env, e)
		}
	}
	env = append(env, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	all := append(settings[:len(settings):len(settings)], more...)
	for i, s := range all {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s[1]))
	}
	return append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(all)))
}

// maxAnswer bounds what one git may say to us, bytes.
const maxAnswer = 64 << 20

// call is one run of git in a repository.
type call struct {
	stdin string
	env   []string
	codes []int // exit codes besides 0 that are answers
}

// git runs git in the repository and gives its standard output without the last line feed.
func (b *Bare) git(ctx context.Context, args ...string) (string, error) {
	out, _, err := b.call(ctx, call{}, args...)
	return out, err
}

// call runs git and gives its standard output and its exit code.
func (b *Bare) call(ctx context.Context, c call, args ...string) (string, int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := command(ctx, b.dir, args...)
	cmd.Env = append(cmd.Env, c.env...)
	cmd.Stdin = strings.NewReader(c.stdin)
	stdout, stderr := &bounded{max: maxAnswer}, &bounded{max: 64 << 10}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		for _, code := range c.codes {
			if exit.ExitCode() == code {
				return strings.TrimSuffix(stdout.String(), "\n"), code, nil
			}
		}
	}
	if err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" && ctx.Err() == nil {
			return "", -1, fmt.Errorf("git %s: %s", args[0], text)
		}
		return "", -1, fmt.Errorf("git %s: %w", args[0], errors.Join(ctx.Err(), err))
	}
	if stdout.over {
		return "", -1, fmt.Errorf("git %s: more than %d bytes of answer", args[0], maxAnswer)
	}
	return strings.TrimSuffix(stdout.String(), "\n"), 0, nil
}

// command is a git in dir that takes its whole process group with it when it is ended.
func command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = dir, environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// refs gives what the named refs, or without names all, are now. Those that are not there are not in it.
func (b *Bare) refs(ctx context.Context, names ...string) (map[string]string, error) {
	if len(names) > 200 {
		names = nil // the arguments of a process are bounded
	}
	out, err := b.git(ctx, append([]string{"for-each-ref", "--format=%(objectname) %(refname)", "--"}, names...)...)
	if err != nil {
		return nil, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		sha, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		refs[name] = sha
	}
	return refs, nil
}

// updateRefs makes all changes or none, if each ref still is what Old says.
func (b *Bare) updateRefs(ctx context.Context, changes ...Change) error {
	var in bytes.Buffer
	for _, c := range changes {
		fmt.Fprintf(&in, "update %s\x00%s\x00%s\x00", c.Ref, c.New, c.Old)
	}
	_, _, err := b.call(ctx, call{stdin: in.String()}, "update-ref", "-z", "--stdin")
	return err
}

// resolve gives the commit that a ref or a SHA stands for; "" if there is none.
func (b *Bare) resolve(ctx context.Context, rev string) (string, error) {
	out, _, err := b.call(ctx, call{codes: []int{1, 128}}, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
	return out, err
}

// Resolve gives the SHA of the commit that a ref in full, or a SHA, stands for; "" if there is none.
func (b *Bare) Resolve(ctx context.Context, rev string) (string, error) {
	if !isSHA(rev) && !strings.HasPrefix(rev, "refs/") || strings.ContainsAny(rev, "^~:@{\n\x00") {
		return "", nil
	}
	sha, err := b.resolve(ctx, rev)
	if err != nil {
		return "", fmt.Errorf("resolve %s in %s: %w", rev, b.Name, err)
	}
	return sha, nil
}

// Maintain packs what pushes left in pieces, if there is enough of it, and removes what nothing has referred to for two
// weeks. It may run beside pushes and fetches.
func (b *Bare) Maintain(ctx context.Context) error {
	if _, err := b.git(ctx, "-c", "gc.auto=2000", "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet"); err != nil {
		return fmt.Errorf("maintain %s: %w", b.Name, err)
	}
	return nil
}

func isSHA(s string) bool {
	if len(s) != len(zeroSHA) {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// goodBranch is git check-ref-format for a branch, and GitHub's rules besides: no name that reads as a commit's.
func goodBranch(name string) bool { return name != "HEAD" && goodRef("refs/heads/"+name) }

// goodRef reports whether a ref may be called so, by the rules of git check-ref-format.
func goodRef(ref string) bool {
	if len(ref) > 255 || !strings.HasPrefix(ref, "refs/") || strings.Contains(ref, "..") || strings.Contains(ref, "@{") || strings.HasSuffix(ref, ".") {
		return false
	}
	for _, c := range ref {
		if c <= ' ' || c == 0x7f || strings.ContainsRune(`~^:?*[\`, c) {
			return false
		}
	}
	parts := strings.Split(ref, "/")
	for _, p := range parts {
		if p == "" || strings.HasPrefix(p, ".") || strings.HasSuffix(p, ".lock") {
			return false
		}
	}
	return len(parts) > 2 && !strings.HasPrefix(parts[2], "-") && !isSHA(strings.Join(parts[2:], "/"))
}

// Contains reports whether a commit is in the history of another.
func (b *Bare) Contains(ctx context.Context, tip, commit string) (bool, error) {
	if !isSHA(tip) || !isSHA(commit) {
		return false, nil
	}
	_, code, err := b.call(ctx, call{codes: []int{1}}, "merge-base", "--is-ancestor", commit, tip)
	return code == 0, err
}

// Message gives the first line of a commit's message and what follows it, each of at most 64 KiB.
func (b *Bare) Message(ctx context.Context, commit string) (title, text string, err error) {
	if !isSHA(commit) {
		return "", "", fmt.Errorf("%.60q is no commit", commit)
	}
	out, err := b.git(ctx, "log", "-1", "--format=%s%n%b", commit)
	if err != nil {
		return "", "", err
	}
	title, text, _ = strings.Cut(out, "\n")
	return strings.ToValidUTF8(title[:min(len(title), maxMessage)], ""), strings.TrimSpace(strings.ToValidUTF8(text[:min(len(text), maxMessage)], "")), nil
}

const maxMessage = 64 << 10
