package native

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// gitRepo is a repository that checkout fetches inside the machine, with the commands of the original
// (src/git-source-provider.ts).
type gitRepo struct {
	s    *Step
	set  *checkoutSettings
	env  []string
	url  string // of the remote, for people and for the configuration
	from string // what is fetched from: url, or a repository of this host that the machine can see
}

// checkoutGit fetches and checks out set.repository and gives the commit. It settles set.ref as the original does.
func checkoutGit(ctx context.Context, s *Step, set *checkoutSettings) (commit string, err error) {
	g := &gitRepo{s: s, set: set, url: remoteURL(set)}
	g.env = []string{"GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=Never", "GIT_ALLOW_PROTOCOL=https:http:ssh:git:file", "LC_ALL=C"}
	if !set.lfs {
		g.env = append(g.env, "GIT_LFS_SKIP_SMUDGE=1")
	}
	if _, err := s.answer(ctx, "/", "git", "version"); err != nil {
		return "", fmt.Errorf("checkout of %s needs git inside the machine, and it does not run: %w", set.repository, err)
	}
	if err := g.findSource(ctx); err != nil {
		return "", err
	}
	if err := g.prepare(ctx); err != nil {
		return "", err
	}
	defer g.cleanUp(ctx)
	if err := s.group("Setting up auth", func() error { return g.authenticate(ctx) }); err != nil {
		return "", err
	}
	if set.ref == "" && set.commit == "" {
		err := s.group("Determining the default branch", func() error { return g.defaultBranch(ctx) })
		if err != nil {
			return "", err
		}
	}
	if err := s.group("Fetching the repository", func() error { return g.fetchAll(ctx) }); err != nil {
		return "", err
	}
	ref, start, err := g.checkoutInfo(ctx)
	if err != nil {
		return "", err
	}
	if err := g.checkOut(ctx, ref, start); err != nil {
		return "", err
	}
	if set.submodules {
		if err := updateSubmodules(ctx, s, *set, g.env); err != nil {
			return "", err
		}
	}
	if err := g.git(ctx, "log", "-1"); err != nil {
		return "", err
	}
	return g.ask(ctx, "log", "-1", "--format=%H")
}

// remoteURL is src/url-helper.ts.
func remoteURL(set *checkoutSettings) string {
	owner, name, _ := strings.Cut(set.repository, "/")
	if set.sshKey != "" {
		user := set.sshUser
		if user == "" {
			user = "git"
		}
		return user + "@" + set.server.Hostname() + ":" + url.PathEscape(owner) + "/" + url.PathEscape(name) + ".git"
	}
	return set.server.Scheme + "://" + set.server.Host + "/" + url.PathEscape(owner) + "/" + url.PathEscape(name)
}

// findSource settles what is fetched from: the local repository where it has the ref, a mirror, else the server.
func (g *gitRepo) findSource(ctx context.Context) error {
	g.from = g.url
	host := g.s.Host
	if host == nil {
		return nil
	}
	if g.set.own && host.WorkTree != nil && strings.EqualFold(host.WorkTree.Repository, g.set.repository) {
		return g.fromHere(ctx, host.WorkTree)
	}
	if host.CloneURL == "" || g.set.sshKey != "" {
		return nil
	}
	owner, name, _ := strings.Cut(g.set.repository, "/")
	mirror := strings.NewReplacer("{owner}", url.PathEscape(owner), "{repo}", url.PathEscape(name)).Replace(host.CloneURL)
	if mirror == host.CloneURL {
		mirror = strings.TrimSuffix(mirror, "/") + "/" + url.PathEscape(owner) + "/" + url.PathEscape(name)
	}
	u, err := url.Parse(mirror)
	if err != nil {
		return fmt.Errorf("the URL to clone from is not valid: %w", err)
	}
	if u.Scheme != "file" {
		g.from = mirror
		return nil
	}
	g.from, err = g.show(ctx, filepath.FromSlash(u.Path))
	return err
}

// fromHere fetches from the local repository if it has what is asked for. Other refs than the run's own are those of
// the last `git fetch` of the user, which is said.
func (g *gitRepo) fromHere(ctx context.Context, tree *WorkTree) error {
	state, err := tree.read(ctx)
	if err != nil || !state.git {
		return err
	}
	found := ""
	for _, name := range g.localNames() {
		if _, err := gitHere(ctx, tree.Dir, 1<<10, "rev-parse", "-q", "--verify", "--end-of-options", name+"^{commit}"); err == nil {
			found = name
			break
		}
	}
	if found == "" {
		g.s.info("The local repository has no '%s': it is fetched from %s", g.wanted(), g.url)
		return nil
	}
	if g.from, err = g.show(ctx, state.commonDir); err != nil {
		return err
	}
	g.s.info("'%s' is taken from the local repository (%s)", g.wanted(), found)
	if g.set.commit == "" {
		// The name may be a remote-tracking branch here: ask for the commit, and keep the name for the branch.
		sha, err := gitHere(ctx, tree.Dir, 1<<10, "rev-parse", "-q", "--verify", "--end-of-options", found+"^{commit}")
		if err != nil {
			return err
		}
		g.set.commit = strings.TrimSpace(string(sha))
		switch {
		case strings.HasPrefix(found, "refs/tags/"):
			g.set.ref = found
		case !strings.HasPrefix(g.set.ref, "refs/"):
			g.set.ref = "refs/heads/" + g.set.ref
		}
	}
	return nil
}

func (g *gitRepo) wanted() string {
	if g.set.ref != "" {
		return g.set.ref
	}
	if g.set.commit != "" {
		return g.set.commit
	}
	return "the default branch"
}

// localNames are the names that a ref may have in the local repository.
func (g *gitRepo) localNames() []string {
	switch ref := g.set.ref; {
	case g.set.commit != "":
		return []string{g.set.commit}
	case strings.HasPrefix(ref, "refs/heads/"):
		return []string{ref, "refs/remotes/origin/" + strings.TrimPrefix(ref, "refs/heads/")}
	case strings.HasPrefix(ref, "refs/"):
		return []string{ref}
	default:
		return []string{"refs/heads/" + ref, "refs/remotes/origin/" + ref, "refs/tags/" + ref}
	}
}

// show makes a repository directory of this host visible to the machine and gives its path there.
func (g *gitRepo) show(ctx context.Context, dir string) (string, error) {
	if g.s.direct() {
		return dir, nil
	}
	at := path.Join(g.s.Sandbox.Info().Temp, "_origin-"+rand.Text()[:10])
	if layered, ok := g.s.Sandbox.(sandbox.Layered); ok {
		return at, layered.Overlay(ctx, at, dir, []string{"hooks", "config.worktree"})
	}
	return at, g.s.putTar(ctx, at, func(w *tar.Writer) error {
		return packDir(ctx, w, dir, "", map[string]bool{"hooks": true, "config.worktree": true})
	})
}

// prepare leaves an empty repository, or one of the same remote that is cleaned.
func (g *gitRepo) prepare(ctx context.Context) error {
	s, set := g.s, g.set
	// A configuration beside the user's own: it trusts the directories that this step works on, and no more.
	global := path.Join(s.Sandbox.Info().Temp, "_git-"+rand.Text()[:10]+".config")
	var b configWriter
	b.set("include.path", path.Join(s.home(), ".gitconfig"))
	b.set("safe.directory", "*")
	b.set("credential.helper", "")
	b.set("init.defaultBranch", "main")
	if err := s.put(ctx, path.Dir(global), file{name: path.Base(global), data: b.String(), mode: 0o600}); err != nil {
		return err
	}
	g.env = append(g.env, "GIT_CONFIG_GLOBAL="+global)

	existing, err := s.kind(ctx, path.Join(set.dir, ".git"))
	if err != nil {
		return err
	}
	if existing == "" || !g.reuse(ctx) {
		s.info("Deleting the contents of '%s'", set.dir)
		if err := s.clear(ctx, set.dir); err != nil {
			return err
		}
		err = s.group("Initializing the repository", func() error {
			if err := g.git(ctx, "init", set.dir); err != nil {
				return err
			}
			return g.git(ctx, "remote", "add", "origin", g.url)
		})
		if err != nil {
			return err
		}
	}
	if _, err := g.ask(ctx, "config", "--local", "gc.auto", "0"); err != nil {
		s.warning("Unable to turn off git automatic garbage collection. The git fetch operation may trigger garbage collection and cause a delay.")
	}
	if set.lfs {
		if err := g.git(ctx, "lfs", "install", "--local"); err != nil {
			return fmt.Errorf("Input 'lfs' needs git-lfs inside the machine: %w", err)
		}
	}
	return nil
}

// reuse prepares a repository that an earlier step left (src/git-directory-helper.ts); false if it can not be used.
func (g *gitRepo) reuse(ctx context.Context) bool {
	if remote, err := g.ask(ctx, "config", "--local", "--get", "remote.origin.url"); err != nil || remote != g.url {
		return false
	}
	if err := g.s.remove(ctx, g.set.dir+"/.git/index.lock", g.set.dir+"/.git/shallow.lock"); err != nil {
		return false
	}
	if _, err := g.ask(ctx, "checkout", "--detach"); err != nil {
		return false
	}
	branches, err := g.ask(ctx, "for-each-ref", "--format=%(refname:short)", "refs/heads")
	if err != nil {
		return false
	}
	for _, b := range strings.Fields(branches) {
		if _, err := g.ask(ctx, "branch", "--delete", "--force", b); err != nil {
			return false
		}
	}
	if !g.set.clean {
		return true
	}
	clean := func() error {
		if err := g.git(ctx, "clean", "-ffdx"); err != nil {
			return err
		}
		return g.git(ctx, "reset", "--hard", "HEAD")
	}
	if err := g.s.group("Cleaning the repository", clean); err != nil {
		g.s.warning("Unable to clean or reset the repository. The repository will be recreated instead.")
		return false
	}
	return true
}

// writeCredentials puts the token into a file of its own in the runner's directory, which the repository's
// configuration includes, and remembers it for Post.
func (s *Step) writeCredentials(ctx context.Context, set checkoutSettings) (string, error) {
	basic := base64.StdEncoding.EncodeToString([]byte("x-access-token:" + set.token))
	s.mask(basic)
	var b configWriter
	b.set("http."+set.server.Scheme+"://"+set.server.Host+"/.extraheader", "AUTHORIZATION: basic "+basic)
	name := "git-credentials-" + strings.ToLower(rand.Text()) + ".config"
	temp := s.Sandbox.Info().Temp
	if err := s.put(ctx, temp, file{name: name, data: b.String(), mode: 0o600}); err != nil {
		return "", fmt.Errorf("write credentials: %w", err)
	}
	s.save("credentials", path.Join(temp, name))
	return path.Join(temp, name), nil
}

func (g *gitRepo) authenticate(ctx context.Context) error {
	if g.set.sshKey != "" {
		return g.authenticateSSH(ctx)
	}
	if g.set.token == "" {
		return nil
	}
	file, err := g.s.writeCredentials(ctx, *g.set)
	if err != nil {
		return err
	}
	_, err = g.ask(ctx, "config", "--local", "include.path", file)
	return err
}

func (g *gitRepo) authenticateSSH(ctx context.Context) error {
	temp := g.s.Sandbox.Info().Temp
	key := "_ssh-" + strings.ToLower(rand.Text()) + ".key"
	err := g.s.put(ctx, temp, file{name: key, data: strings.TrimSpace(g.set.sshKey) + "\n", mode: 0o600},
		file{name: key + "_known_hosts", data: g.set.sshKnownHosts + "\n", mode: 0o600})
	if err != nil {
		return err
	}
	g.s.save("credentials", path.Join(temp, key))
	command := `ssh -i "$RUNNER_TEMP/` + key + `" -o BatchMode=yes`
	if g.set.sshStrict {
		command += " -o StrictHostKeyChecking=yes -o CheckHostIP=no"
	} else {
		command += " -o StrictHostKeyChecking=no"
	}
	command += ` -o "UserKnownHostsFile=$RUNNER_TEMP/` + key + `_known_hosts ~/.ssh/known_hosts"`
	g.s.info("Temporarily overriding GIT_SSH_COMMAND=%s", command)
	g.env = append(g.env, "GIT_SSH_COMMAND="+command)
	if g.set.persist {
		_, err = g.ask(ctx, "config", "--local", "core.sshCommand", command)
	}
	return err
}

// cleanUp takes credentials out again that later steps are not to have.
func (g *gitRepo) cleanUp(ctx context.Context) {
	if g.set.persist || g.s.State["credentials"] == "" {
		return
	}
	ctx = context.WithoutCancel(ctx)
	for _, key := range []string{"include.path", "core.sshCommand"} {
		_, _ = g.ask(ctx, "config", "--local", "--unset-all", key)
	}
	if err := g.s.remove(ctx, g.s.State["credentials"]); err != nil {
		g.s.warning("Failed to remove credentials config '%s'", g.s.State["credentials"])
	}
	delete(g.s.State, "credentials")
}

func (g *gitRepo) defaultBranch(ctx context.Context) error {
	out, err := g.ask(ctx, "ls-remote", "--quiet", "--exit-code", "--symref", g.from, "HEAD")
	if err != nil {
		return g.unreachable(err)
	}
	for line := range strings.Lines(out) {
		if ref, ok := strings.CutPrefix(strings.TrimSpace(line), "ref:"); ok {
			g.set.ref, _, _ = strings.Cut(strings.TrimSpace(ref), "\t")
			g.s.info("Default branch '%s'", strings.TrimPrefix(g.set.ref, "refs/heads/"))
			return nil
		}
	}
	return errors.New("Unexpected output when retrieving default branch")
}

// refspecs is getRefSpec and getRefSpecForAllHistory of src/ref-helper.ts.
func (g *gitRepo) refspecs() []string {
	const tags = "+refs/tags/*:refs/tags/*"
	ref, commit := g.set.ref, g.set.commit
	if g.set.depth <= 0 {
		specs := []string{"+refs/heads/*:refs/remotes/origin/*", tags}
		if branch, ok := strings.CutPrefix(ref, "refs/pull/"); ok {
			what := commit
			if what == "" {
				what = ref
			}
			specs = append(specs, "+"+what+":refs/remotes/pull/"+branch)
		}
		return specs
	}
	var specs []string
	if g.set.fetchTags {
		specs = append(specs, tags)
	}
	what := ref
	if commit != "" {
		what = commit
	}
	branch, isBranch := strings.CutPrefix(ref, "refs/heads/")
	pull, isPull := strings.CutPrefix(ref, "refs/pull/")
	switch {
	case isBranch:
		specs = append(specs, "+"+what+":refs/remotes/origin/"+branch)
	case isPull:
		specs = append(specs, "+"+what+":refs/remotes/pull/"+pull)
	case strings.HasPrefix(ref, "refs/tags/"):
		if !g.set.fetchTags {
			specs = append(specs, "+"+ref+":"+ref)
		}
	case commit != "":
		specs = append(specs, commit)
	case strings.HasPrefix(ref, "refs/"):
		specs = append(specs, "+"+ref+":"+ref)
	default:
		specs = append(specs, "+refs/heads/"+ref+"*:refs/remotes/origin/"+ref+"*")
		if !g.set.fetchTags {
			specs = append(specs, "+refs/tags/"+ref+"*:refs/tags/"+ref+"*")
		}
	}
	return specs
}

func (g *gitRepo) fetchAll(ctx context.Context) error {
	if err := g.fetch(ctx, g.refspecs()); err != nil {
		return err
	}
	if g.set.commit == "" {
		return nil
	}
	if g.set.depth <= 0 {
		if _, err := g.ask(ctx, "rev-parse", "-q", "--verify", g.set.commit+"^{commit}"); err != nil {
			if err := g.fetch(ctx, []string{g.set.commit}); err != nil {
				return err
			}
		}
	}
	if !strings.HasPrefix(g.set.ref, "refs/tags/") {
		return nil
	}
	at, err := g.ask(ctx, "rev-parse", g.set.ref+"^{commit}")
	if err != nil {
		return err
	}
	if at != g.set.commit {
		return fmt.Errorf("The ref '%s' does not point to the expected commit '%s'. "+
			"The ref may have been updated after the workflow was triggered.", g.set.ref, g.set.commit)
	}
	return nil
}

func (g *gitRepo) fetch(ctx context.Context, specs []string) error {
	args := []string{"-c", "protocol.version=2", "fetch", "--no-tags", "--prune", "--no-recurse-submodules"}
	if g.set.progress {
		args = append(args, "--progress")
	}
	switch { // a copy on this host is whole, and no remote to come back to
	case g.from != g.url:
	case g.set.filter != "":
		args = append(args, "--filter="+g.set.filter)
	case len(g.set.sparse) > 0:
		args = append(args, "--filter=blob:none")
	}
	if g.set.depth > 0 {
		args = append(args, fmt.Sprintf("--depth=%d", g.set.depth))
	} else if kind, err := g.s.kind(ctx, g.set.dir+"/.git/shallow"); err == nil && kind != "" {
		args = append(args, "--unshallow")
	}
	remote := "origin"
	if g.from != g.url {
		remote = g.from
		if strings.HasPrefix(remote, "/") {
			remote = "file://" + remote
		}
	}
	args = append(append(args, "--", remote), specs...)
	err := g.git(ctx, args...)
	if err != nil && g.set.token != "" && ctx.Err() == nil && g.from == g.url && g.set.sshKey == "" {
		// A token that the server does not know is refused where no token at all would do: public repositories.
		g.s.info("Trying again without the token")
		env := g.env
		g.env = append(append([]string{}, env...), "GIT_CONFIG_COUNT=1",
			"GIT_CONFIG_KEY_0=http."+g.set.server.Scheme+"://"+g.set.server.Host+"/.extraheader", "GIT_CONFIG_VALUE_0=")
		err = g.git(ctx, args...)
		g.env = env
	}
	if err != nil {
		return g.unreachable(err)
	}
	return nil
}

func (g *gitRepo) unreachable(err error) error {
	hint := ""
	if g.set.token == "" && g.set.sshKey == "" && g.from == g.url {
		hint = fmt.Sprintf(". If %s is private, give a token: `token:` of the step, or the secret GITHUB_TOKEN", g.set.repository)
	}
	return fmt.Errorf("fetch %s of %s: %w%s", g.wanted(), g.url, err, hint)
}

// checkoutInfo is getCheckoutInfo of src/ref-helper.ts: what to check out, and for a branch where it starts.
func (g *gitRepo) checkoutInfo(ctx context.Context) (ref, start string, err error) {
	exists := func(name string) bool {
		_, err := g.ask(ctx, "rev-parse", "-q", "--verify", name)
		return err == nil
	}
	ref = g.set.ref
	branch, isBranch := strings.CutPrefix(ref, "refs/heads/")
	pull, isPull := strings.CutPrefix(ref, "refs/pull/")
	switch {
	case ref == "":
		return g.set.commit, "", nil
	case isBranch:
		return branch, "refs/remotes/origin/" + branch, nil
	case isPull:
		return "refs/remotes/pull/" + pull, "", nil
	case strings.HasPrefix(ref, "refs/tags/"):
		return ref, "", nil
	case strings.HasPrefix(ref, "refs/"):
		if g.set.commit != "" {
			return g.set.commit, "", nil
		}
		return ref, "", nil
	case exists("refs/remotes/origin/" + ref):
		return ref, "refs/remotes/origin/" + ref, nil
	case exists("refs/tags/" + ref):
		return "refs/tags/" + ref, "", nil
	}
	return "", "", fmt.Errorf("A branch or tag with the name '%s' could not be found", ref)
}

func (g *gitRepo) checkOut(ctx context.Context, ref, start string) error {
	if g.set.lfs && len(g.set.sparse) == 0 {
		what := ref
		if start != "" {
			what = start
		}
		if err := g.s.group("Fetching LFS objects", func() error { return g.git(ctx, "lfs", "fetch", "origin", what) }); err != nil {
			return err
		}
	}
	if len(g.set.sparse) > 0 {
		if err := sparseCheckout(ctx, g.s, *g.set, g.env...); err != nil {
			return err
		}
	}
	return g.s.group("Checking out the ref", func() error {
		args := []string{"checkout", "--progress", "--force"}
		if start != "" {
			args = append(args, "-B", ref, start)
		} else {
			args = append(args, ref)
		}
		return g.git(ctx, args...)
	})
}

// sparseCheckout sets the patterns of sparse-checkout in the repository at set.dir.
func sparseCheckout(ctx context.Context, s *Step, set checkoutSettings, env ...string) error {
	return s.group("Setting up sparse checkout", func() error {
		args := []string{"git", "sparse-checkout", "set"}
		if !set.coneMode {
			args = append(args, "--no-cone")
		}
		return s.runEnv(ctx, set.dir, env, append(args, set.sparse...)...)
	})
}

func updateSubmodules(ctx context.Context, s *Step, set checkoutSettings, env []string) error {
	return s.group("Fetching submodules", func() error {
		sync := []string{"git", "submodule", "sync"}
		update := []string{"git", "-c", "protocol.version=2", "submodule", "update", "--init", "--force"}
		if set.depth > 0 {
			update = append(update, fmt.Sprintf("--depth=%d", set.depth))
		}
		if set.nested {
			sync, update = append(sync, "--recursive"), append(update, "--recursive")
		}
		if err := s.runEnv(ctx, set.dir, env, sync...); err != nil {
			return err
		}
		return s.runEnv(ctx, set.dir, append(env, "GIT_TERMINAL_PROMPT=0"), update...)
	})
}

func (g *gitRepo) git(ctx context.Context, args ...string) error {
	return g.s.runEnv(ctx, g.dir(args), g.env, append([]string{"git"}, args...)...)
}

func (g *gitRepo) ask(ctx context.Context, args ...string) (string, error) {
	out, err := g.s.answerEnv(ctx, g.dir(args), g.env, append([]string{"git"}, args...)...)
	return strings.TrimSpace(out), err
}

func (g *gitRepo) dir(args []string) string {
	if args[0] == "init" {
		return "/"
	}
	return g.set.dir
}
