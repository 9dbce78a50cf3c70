package forge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// hookScript is what git runs before and after a push changes refs. It tells the server its name over a pipe that git
// has inherited, waits for the answer on another, and shows what the answer says; the last line is the verdict. What the
// push is about the server has read itself: nothing that a client chooses goes through the shell.
const hookScript = `#!/bin/sh
# Written by penstock; changes are lost. The server listens on 3 and answers on 4.
echo "${0##*/}" >&3 || exit 1
while IFS= read -r line <&4; do
	case $line in
	ok) exit 0 ;;
	no) exit 1 ;;
	*) printf '%s\n' "${line#?}" >&2 ;;
	esac
done
exit 1
`

// writeHooks puts the hooks in place, each whole at once: another process may be about to run it.
func writeHooks(dir string) error {
	for _, name := range []string{"pre-receive", "post-receive"} {
		path := filepath.Join(dir, name)
		if have, err := os.ReadFile(path); err == nil && string(have) == hookScript {
			continue
		}
		f, err := os.CreateTemp(dir, "new")
		if err != nil {
			return err
		}
		_, err = f.WriteString(hookScript)
		if err = errors.Join(err, f.Chmod(0o700), f.Sync(), f.Close()); err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			return errors.Join(err, os.Remove(f.Name()))
		}
	}
	return nil
}

// receive takes a push in.
func (b *Bare) receive(ctx context.Context, c *conversation, by Visitor, protocol string) {
	body, err := c.body(b.host.maxPush + maxCommands)
	if err != nil {
		http.Error(c.w, err.Error(), http.StatusBadRequest)
		return
	}
	commands, err := readCommands(body, maxCommands)
	if err != nil {
		code := http.StatusBadRequest
		if errors.Is(err, errCommands) {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(c.w, err.Error(), code)
		return
	}
	lockFile, err := b.openLock()
	if err != nil {
		http.Error(c.w, "the repository can not be pushed to at the moment: try again", http.StatusServiceUnavailable)
		return
	}
	c.w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
	r := &reception{b: b, by: by, asked: commands, lockFile: lockFile}
	defer r.close()
	r.run(ctx, io.MultiReader(bytes.NewReader(commands.raw), body), c, protocol)
}

// reception is one push while it is received.
type reception struct {
	b        *Bare
	by       Visitor
	asked    *commands
	lockFile *os.File
	held     *held // from before the journal is written until the refs have changed
	settled  bool  // what the push changed is written, or there was nothing
}

// run runs git receive-pack and talks with its hooks.
func (r *reception) run(ctx context.Context, in io.Reader, out io.Writer, protocol string) {
	fromHook, toServer, err := os.Pipe()
	if err != nil {
		return
	}
	defer fromHook.Close()
	fromServer, toHook, err := os.Pipe()
	if err != nil {
		toServer.Close()
		return
	}
	defer toHook.Close()
	cmd := command(ctx, r.b.dir, "receive-pack", "--stateless-rpc", ".")
	cmd.Env = append(environment(
		[2]string{"core.hooksPath", r.b.host.hooks()},
		[2]string{"receive.maxInputSize", strconv.FormatInt(r.b.host.maxPush, 10)},
	), "GIT_PROTOCOL="+protocol)
	cmd.Stdin, cmd.Stdout = in, out
	cmd.ExtraFiles = []*os.File{toServer, fromServer, r.lockFile} // 3, 4 and 5 there
	err = cmd.Start()
	toServer.Close()
	fromServer.Close()
	if err != nil {
		return
	}
	talked := make(chan struct{})
	go func() {
		defer close(talked)
		r.talk(ctx, fromHook, toHook)
	}()
	_ = cmd.Wait()   // what is wrong git itself has told its client, in the stream
	fromHook.Close() // a hook that outlives git has nothing to say any more
	<-talked         // it may hold the lock until here
	r.finish(ctx)
}

// close gives back the lock, if the push came that far, and its file.
func (r *reception) close() {
	if r.held != nil {
		r.held.release()
		return
	}
	r.lockFile.Close()
}

// talk answers the hooks, one after the other.
func (r *reception) talk(ctx context.Context, hooks io.Reader, answer io.Writer) {
	names := bufio.NewScanner(hooks)
	for names.Scan() {
		var lines []string
		verdict := "ok"
		if names.Text() == "pre-receive" {
			if err := r.before(ctx); err != nil {
				lines, verdict = []string{"penstock: " + err.Error()}, "no"
			}
		} else {
			lines = r.finish(ctx)
		}
		if _, err := io.WriteString(answer, hookAnswer(lines, verdict)); err != nil {
			return
		}
	}
}

// hookAnswer puts lines into the form the hook reads: each behind a sign that no verdict begins with.
func hookAnswer(lines []string, verdict string) string {
	var out strings.Builder
	for _, l := range lines {
		for part := range strings.SplitSeq(strings.TrimRight(l, "\n"), "\n") {
			out.WriteString("=" + strings.ToValidUTF8(strings.ReplaceAll(part, "\x00", ""), "?") + "\n")
		}
	}
	return out.String() + verdict + "\n"
}

// before decides on a push whose objects have all come and been checked, while its refs are as they were. Refs that are
// hidden from pushes git itself refuses, one by one.
func (r *reception) before(ctx context.Context) error {
	if n := len(r.asked.changes); n > maxChanges {
		return fmt.Errorf("%d refs are too many for one push: push at most %d at once", n, maxChanges)
	}
	var names []string
	for _, c := range r.asked.changes {
		if strings.HasPrefix(c.Ref, pullPrefix) {
			continue
		}
		if err := checkChange(c); err != nil {
			return err
		}
		if err := r.by.May(c); err != nil {
			return err
		}
		names = append(names, c.Ref)
	}
	held, err := r.b.lockOn(ctx, r.lockFile)
	if err != nil {
		return errors.New("the repository can not be changed at the moment: try again")
	}
	r.held = held
	now, err := r.b.refs(ctx, names...)
	if err != nil {
		return errors.New("the repository can not be read at the moment: try again")
	}
	push := Push{By: r.by.Account, At: time.Now().UTC(), Options: r.asked.options}
	for _, c := range r.asked.changes {
		// git itself refuses a change of what the ref is not any more.
		if orZero(now[c.Ref]) == c.Old && c.Old != c.New && !strings.HasPrefix(c.Ref, pullPrefix) {
			push.Changes = append(push.Changes, c)
		}
	}
	if len(push.Changes) == 0 {
		r.settled = true
		return nil
	}
	if err := r.b.begin(push); err != nil {
		return errors.New("the push can not be stored: the server's disk may be full")
	}
	return nil
}

// finish writes down what the push changed, gives the lock back and tells of it. It is called when the refs have
// changed, and once more when git has ended, which it may have done before.
func (r *reception) finish(ctx context.Context) []string {
	if r.held == nil || r.held.file == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if !r.settled {
		if err := r.b.settle(ctx); err != nil {
			r.held.release()
			return []string{"the push is stored, and its workflows start later: " + err.Error()}
		}
	}
	r.held.release()
	if r.settled {
		return nil
	}
	said, err := r.b.deliver(ctx)
	if err != nil {
		return []string{"the push is stored, and its workflows start later: " + err.Error()}
	}
	return said
}

// checkChange holds pushes to what GitHub allows.
func checkChange(c Change) error {
	_, isFor := c.For()
	switch {
	case !goodRef(c.Ref):
		return fmt.Errorf("%.255q is no name for a branch or tag: it is too long, or reads as a commit's", c.Ref)
	case isFor && c.Deleted():
		return errors.New("a pull request is closed, not deleted")
	}
	return nil
}
