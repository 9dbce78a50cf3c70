package forge

import (
	"bytes"
	"context"
	"fmt"
	"strings"
)

// commit is what events tell of a commit.
type commit struct {
	sha, tree         string
	parents           []string
	message           string
	author, committer Author
	files             []commitFile
}

// commitFile is a path that a commit changed: status A added, D removed, else modified.
type commitFile struct {
	status byte
	path   string
}

// commitFormat has git log print what parseLog reads: a sign that begins each commit, its fields, and behind them the
// files if they are asked for, all ended by zero bytes.
const commitFormat = "--format=tformat:%x01%H%x00%T%x00%P%x00%an%x00%ae%x00%aI%x00%cn%x00%ce%x00%cI%x00%B%x00"

// maxFiles is how many changed files are told of one push in all.
const maxFiles = 3000

// log reads commits, with their files if wanted. args select them.
func (b *Bare) log(ctx context.Context, files bool, args ...string) ([]commit, error) {
	all := []string{"log", "-z", "--no-show-signature", "--no-decorate", "--encoding=UTF-8", commitFormat}
	if files {
		all = append(all, "--name-status", "--no-renames", "--diff-merges=first-parent", "--root")
	}
	out, err := b.git(ctx, append(all, args...)...)
	if err != nil {
		return nil, err
	}
	return parseLog([]byte(out))
}

// parseLog reads what git log printed in commitFormat. With -z a zero byte stands between two commits, and after each
// status and each path. What a commit says may hold anything but zero bytes; only after one can a commit begin.
func parseLog(out []byte) ([]commit, error) {
	fields := strings.Split(string(out), "\x00")
	var commits []commit
	for i := 0; i < len(fields); {
		field := strings.TrimLeft(fields[i], "\n")
		switch sha, begins := strings.CutPrefix(field, "\x01"); {
		case field == "":
			i++
		case begins:
			if len(fields)-i < 10 || !isSHA(sha) {
				return nil, fmt.Errorf("git log: a commit is cut off at %.60q", field)
			}
			f := fields[i+1:]
			commits = append(commits, commit{
				sha: sha, tree: f[0], parents: strings.Fields(f[1]), message: strings.TrimRight(f[8], "\n"),
				author: Author{f[2], f[3], f[4]}, committer: Author{f[5], f[6], f[7]},
			})
			i += 10
		default:
			if len(commits) == 0 || len(field) != 1 || i+1 >= len(fields) {
				return nil, fmt.Errorf("git log: not a file's status: %.60q", field)
			}
			last := &commits[len(commits)-1]
			last.files = append(last.files, commitFile{field[0], fields[i+1]})
			i += 2
		}
	}
	return commits, nil
}

// commit is a payload's commit, without its files.
func (s Scene) commit(c commit, distinct bool) map[string]any {
	return map[string]any{
		"id": c.sha, "tree_id": c.tree, "message": c.message, "timestamp": c.committer.Date, "distinct": distinct,
		"author": person(c.author), "committer": person(c.committer), "url": s.htmlURL() + "/commit/" + c.sha,
	}
}

func person(a Author) map[string]any {
	return map[string]any{"name": a.Name, "email": a.Email, "date": a.Date}
}

// commitTree makes a commit. Who and when are given, so that the same commit is made from the same things.
func (b *Bare) commitTree(ctx context.Context, c commit) (string, error) {
	args := []string{"commit-tree", c.tree}
	for _, p := range c.parents {
		args = append(args, "-p", p)
	}
	var env []string
	for role, who := range map[string]Author{"AUTHOR": c.author, "COMMITTER": c.committer} {
		env = append(env, "GIT_"+role+"_NAME="+oneLine(who.Name, "unknown"), "GIT_"+role+"_EMAIL="+oneLine(who.Email, "unknown@localhost"), "GIT_"+role+"_DATE="+who.Date)
	}
	sha, _, err := b.call(ctx, call{stdin: c.message, env: env}, args...)
	return sha, err
}

// oneLine is a name or an address that git takes: no line feeds, no brackets, and not empty.
func oneLine(s, or string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == '<' || r == '>' {
			return -1
		}
		return r
	}, s))
	if s == "" || bytes.IndexFunc([]byte(s), func(r rune) bool { return r > ' ' && !strings.ContainsRune(`.,:;"\'`, r) }) < 0 {
		return or
	}
	return s
}
