package native

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// checkout is actions/checkout. The repository of the run itself at the ref of the run is the local working tree,
// laid over the workspace as it is. Any other repository or ref is fetched by git, inside the machine.
type checkout struct{}

// checkoutSettings are the inputs, read as the original reads them (src/input-helper.ts).
type checkoutSettings struct {
	repository string // owner/name
	own        bool   // the repository of the workflow
	dir        string // absolute
	ref        string
	commit     string
	here       bool // the own repository at the run's own ref

	clean, coneMode, fetchTags, progress, lfs, persist, safe bool
	submodules, nested                                       bool
	filter                                                   string
	sparse                                                   []string
	depth                                                    int
	token, sshKey, sshKnownHosts, sshUser                    string
	sshStrict                                                bool
	server                                                   *url.URL
}

func (checkout) Main(ctx context.Context, s *Step) error {
	set, err := readCheckout(s)
	if err != nil {
		return err
	}
	if err := assertSafePullRequest(s, set); err != nil {
		return err
	}
	s.info("Syncing repository: %s", set.repository)
	commit := ""
	if set.here {
		commit, err = checkoutHere(ctx, s, set)
	} else {
		commit, err = checkoutGit(ctx, s, &set)
	}
	if err != nil {
		return err
	}
	s.output("commit", commit)
	s.output("ref", set.ref)
	return nil
}

var fullSHA = regexp.MustCompile(`^(?:[0-9a-fA-F]{40}|[0-9a-fA-F]{64})$`)

func readCheckout(s *Step) (checkoutSettings, error) {
	own := s.github("repository")
	set := checkoutSettings{repository: s.input("repository")}
	if set.repository == "" {
		set.repository = own
	}
	owner, name, _ := strings.Cut(set.repository, "/")
	if owner == "" || name == "" || strings.Contains(name, "/") || strings.HasPrefix(owner, "-") {
		return set, fmt.Errorf("Invalid repository '%s'. Expected format {owner}/{repo}.", set.repository)
	}
	set.own = strings.EqualFold(set.repository, own)

	workspace := s.workspace()
	set.dir = path.Join(workspace, s.input("path"))
	if p := s.input("path"); path.IsAbs(p) {
		set.dir = path.Clean(p)
	}
	if !below(set.dir, workspace) {
		return set, fmt.Errorf("Repository path '%s' is not under '%s'", set.dir, workspace)
	}
	if err := set.readRef(s); err != nil {
		return set, err
	}

	set.clean = s.input("clean") == "" || s.loose("clean")
	set.coneMode = s.input("sparse-checkout-cone-mode") == "" || s.loose("sparse-checkout-cone-mode")
	set.progress = s.input("show-progress") == "" || s.loose("show-progress")
	set.safe = s.input("set-safe-directory") == "" || s.loose("set-safe-directory")
	set.sshStrict = s.input("ssh-strict") == "" || s.loose("ssh-strict")
	set.fetchTags, set.lfs, set.persist = s.loose("fetch-tags"), s.loose("lfs"), s.loose("persist-credentials")
	set.nested = strings.EqualFold(s.input("submodules"), "recursive")
	set.submodules = set.nested || s.loose("submodules")
	set.filter, set.sparse = s.input("filter"), s.lines("sparse-checkout")
	set.token, set.sshKey = s.input("token"), s.input("ssh-key")
	set.sshKnownHosts, set.sshUser = s.input("ssh-known-hosts"), s.input("ssh-user")
	set.depth = 1
	if text := s.input("fetch-depth"); text != "" {
		depth, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(depth) || depth < 0 {
			depth = 0
		}
		set.depth = int(min(depth, math.MaxInt32))
	}
	server := s.input("github-server-url")
	if server == "" {
		server = s.github("server_url")
	}
	if server == "" {
		server = "https://github.com"
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return set, fmt.Errorf("Invalid URL: %s", server)
	}
	set.server = u
	return set, nil
}

// readRef settles ref and commit, and whether they are those of the run.
func (set *checkoutSettings) readRef(s *Step) error {
	ref := strings.Trim(s.Inputs["ref"], "\t\n\v\f\r ")
	if strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, " ~^:?*[\\\x7f") || strings.ContainsFunc(ref, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("Invalid ref '%s': not a name that git allows", ref)
	}
	runRef, runSHA := s.github("ref"), s.github("sha")
	switch {
	case ref == "" && set.own:
		set.ref, set.commit = runRef, runSHA
		if set.commit != "" && set.ref != "" && !strings.HasPrefix(set.ref, "refs/") {
			set.ref = "refs/heads/" + set.ref
		}
	case fullSHA.MatchString(ref):
		set.commit = ref
	default:
		set.ref = ref
	}
	tree := s.Host != nil && s.Host.WorkTree != nil && strings.EqualFold(s.Host.WorkTree.Repository, set.repository)
	same := []string{runRef, runSHA, s.github("ref_name"), s.github("head_ref"), strings.TrimPrefix(runRef, "refs/heads/"), strings.TrimPrefix(runRef, "refs/tags/")}
	if sha := s.github("event", "pull_request", "head", "sha"); sha != "" {
		same = append(same, sha)
	}
	set.here = tree && set.own && (ref == "" || slices.Contains(same, ref))
	return nil
}

// Post takes the token out of the machine again.
func (checkout) Post(ctx context.Context, s *Step) error {
	file := s.State["credentials"]
	if file == "" {
		return nil
	}
	s.info("Removing credentials config '%s'", file)
	if err := s.remove(ctx, file); err != nil {
		s.warning("Failed to remove credentials config '%s'", file)
	}
	return nil
}

var pullRef = regexp.MustCompile(`^refs/pull/[0-9]+/(?:head|merge)$`)

// assertSafePullRequest refuses the code of a fork in a workflow that has the base repository's rights
// (src/unsafe-pr-checkout-helper.ts).
func assertSafePullRequest(s *Step, set checkoutSettings) error {
	event := s.github("event_name")
	if s.loose("allow-unsafe-pr-checkout") || set.own && s.input("ref") == "" {
		return nil
	}
	payload := s.GitHub.Property("event")
	var headID, headName string
	var shas []string
	switch event {
	case "pull_request_target":
		head := payload.Property("pull_request").Property("head")
		headID, headName = head.Property("repo").Property("id").Text(), head.Property("repo").Property("full_name").Text()
		shas = []string{head.Property("sha").Text(), payload.Property("pull_request").Property("merge_commit_sha").Text()}
	case "workflow_run":
		run := payload.Property("workflow_run")
		cause := run.Property("event").Text()
		if !strings.HasPrefix(cause, "pull_request") {
			return nil
		}
		repo := run.Property("head_repository")
		headID, headName = repo.Property("id").Text(), repo.Property("full_name").Text()
		shas = []string{run.Property("head_commit").Property("id").Text()}
		if cause != "pull_request_target" {
			shas = append(shas, run.Property("head_sha").Text())
		}
	default:
		return nil
	}
	if headID == "" || headID == payload.Property("repository").Property("id").Text() {
		return nil
	}
	isSHA := func(sha string) bool { return sha != "" && strings.EqualFold(sha, set.commit) }
	if !strings.EqualFold(set.repository, headName) && !pullRef.MatchString(set.ref) && !slices.ContainsFunc(shas, isSHA) {
		return nil
	}
	return fmt.Errorf("Refusing to check out fork pull request code from a '%s' workflow. "+
		"This workflow runs with the base repository's GITHUB_TOKEN, secrets, default-branch "+
		"cache scope, and runner access. Fetching and executing a fork's code in that trusted "+
		"context commonly leads to \"pwn request\" vulnerabilities. To opt in, review the risks "+
		"at https://gh.io/securely-using-pull_request_target and set 'allow-unsafe-pr-checkout: true' "+
		"on the actions/checkout step.", event)
}
