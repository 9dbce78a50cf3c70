package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/deploy"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/store"
)

// errRelease is wrapped by the errors of a release that can not be planned: who asks for it can mend that.
var errRelease = errors.New("nothing is released")

func notReleased(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errRelease, fmt.Errorf(format, args...))
}

// planned is a release that can begin.
type planned struct {
	plan    *cd.Plan
	fronts  []deploy.Front               // one for each service of the plan
	secrets map[string]map[string]string // values, by service and name
}

// asker is who asks for a release.
type asker struct {
	login string
	// passed is an environment whose gate the asker has passed: that of the job that asks.
	passed     string
	run        int64
	deployment int64 // of GitHub's API that the release carries out; 0 makes one
}

// plan makes the plan of a release from what the repository has at a commit.
func (s *Server) plan(ctx context.Context, repo store.Repository, by asker, ask ReleaseRequest) (*planned, error) {
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil {
		return nil, err
	}
	ref := cmp.Or(ask.Ref, repo.DefaultBranch)
	full, sha, err := commitOf(ctx, bare, ref)
	if err != nil {
		return nil, err
	}
	if ask.sha != "" {
		sha = ask.sha
	}
	if sha == "" {
		return nil, notReleased("there is no branch, tag or commit %s in %s", ref, repo.FullName())
	}
	tree, err := bare.Tree(ctx, sha)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	c, err := readConfig(tree)
	if err != nil {
		return nil, err
	}
	environment, ok := c.Environment(ask.Environment)
	if !ok {
		var known []string
		for _, e := range c.Environments {
			known = append(known, e.Name)
		}
		if len(known) == 0 {
			return nil, notReleased("%s at %.7s has no environments in %s: docs/releases.md shows how they are written", repo.FullName(), sha, config.Name)
		}
		return nil, notReleased("%s has no environment %q at %.7s: it has %s", config.Name, ask.Environment, sha, strings.Join(known, ", "))
	}
	strategy, _, err := environment.Strategy(func(name string) ([]byte, error) {
		f, err := tree.Read(name)
		return f.Data, err
	})
	if err := mistaken(err); err != nil {
		return nil, err
	}
	services, err := chosen(c.ServicesOf(environment), ask)
	if err != nil {
		return nil, err
	}
	gate, err := s.gateOf(ctx, repo, environment.Name, full, by)
	if err != nil {
		return nil, err
	}
	settings, err := s.settingsFor(ctx, repo, environment.Name)
	if err != nil {
		return nil, err
	}
	p := &planned{
		plan: &cd.Plan{
			Repository: repo.FullName(), Environment: environment.Name, Ref: ref, SHA: sha, By: by.login, Reason: ask.Reason, Run: by.run,
			Whole: len(ask.Services) == 0, Strategy: strategy, Watch: environment.Watch, Gate: gate, RunsOn: environment.RunsOn,
		},
		secrets: map[string]map[string]string{},
	}
	source := &sources{s: s, bare: bare, repo: repo, sha: sha, ask: ask, one: len(services) == 1}
	for i := range services {
		service := &services[i]
		if missing := service.Missing(settings.has); len(missing) > 0 {
			return nil, notReleased("%s needs what is missing: %s. Set them as secrets or variables of the environment %s", service.Name, strings.Join(missing, ", "), environment.Name)
		}
		revision, secrets, err := source.revision(ctx, service, settings)
		if err != nil {
			return nil, err
		}
		p.plan.Services = append(p.plan.Services, cd.Service{
			Name: service.Name, Revision: revision, Instances: service.Instances, Unrouted: service.Port == 0, Health: service.Health, Hook: service.Hook, HookTimeout: service.HookTimeout,
		})
		p.fronts = append(p.fronts, front(repo, environment, service))
		p.secrets[service.Name] = secrets
	}
	return p, nil
}

// commitOf is the commit that a branch, a tag or a SHA names, with the ref in full; both "" if there is none.
func commitOf(ctx context.Context, bare *forge.Bare, name string) (ref, sha string, err error) {
	refs := []string{name}
	if !strings.HasPrefix(name, "refs/") {
		refs = []string{"refs/heads/" + name, "refs/tags/" + name, name}
	}
	for _, ref := range refs {
		if sha, err = bare.Resolve(ctx, ref); err != nil || sha != "" {
			return ref, sha, err
		}
	}
	return "", "", nil
}

// readConfig reads the penstock.yaml of a commit.
func readConfig(tree *forge.Tree) (*config.Config, error) {
	file, err := tree.Read(config.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notReleased("there is no %s at %.7s: it says what is released, and how (docs/releases.md)", config.Name, tree.SHA)
	}
	if err != nil {
		return nil, err
	}
	c, err := config.Parse(config.Name, file.Data)
	return c, mistaken(err)
}

// mistaken makes mistakes in a file those of who asks.
func mistaken(err error) error {
	var mistakes config.Errors
	if errors.As(err, &mistakes) {
		return notReleased("%w", mistakes)
	}
	return err
}

// front is how the outside reaches a service.
func front(repo store.Repository, environment *config.Environment, service *config.Service) deploy.Front {
	return deploy.Front{
		Repository: repo.FullName(), Environment: environment.Name, Service: service.Name, Hosts: service.Hosts, Path: service.Path, Strip: service.StripPath,
		Sticky:  proxy.Sticky{Cookie: service.Sticky.Cookie, MaxAge: service.Sticky.MaxAge, Header: service.Sticky.Header},
		MaxBody: service.MaxBody, ResponseTimeout: service.ResponseTimeout, GRPC: service.GRPC,
	}
}

// chosen are the services that are asked for, in the order of the file.
func chosen(all []config.Service, ask ReleaseRequest) ([]config.Service, error) {
	var known []string
	for _, service := range all {
		known = append(known, service.Name)
	}
	named := slices.Concat(ask.Services, slices.Collect(maps.Keys(ask.Images)), slices.Collect(maps.Keys(ask.Artifacts)))
	for _, name := range named {
		if name != "" && !slices.Contains(known, name) {
			return nil, notReleased("there is no service %q: there is %s", name, strings.Join(known, ", "))
		}
	}
	if len(ask.Services) > 0 {
		all = slices.DeleteFunc(all, func(service config.Service) bool { return !slices.Contains(ask.Services, service.Name) })
	}
	_, image := ask.Images[""]
	_, artifact := ask.Artifacts[""]
	if (image || artifact) && len(all) != 1 {
		return nil, notReleased("of which service is it? Name one of %s", strings.Join(known, ", "))
	}
	return all, nil
}

// gateOf is what a release waits for before anything of it starts: what the environment's rules say.
func (s *Server) gateOf(ctx context.Context, repo store.Repository, environment, ref string, by asker) (*cd.Gate, error) {
	r, err := s.restRepository(repo)
	if err != nil {
		return nil, err
	}
	rules, err := s.rest.Environments(ctx, r)
	if err != nil {
		return nil, err
	}
	rule, ok := rules[strings.ToLower(environment)]
	if !ok {
		return nil, s.makeEnvironment(ctx, repo, environment, s.now())
	}
	if strings.EqualFold(by.passed, environment) {
		return nil, nil
	}
	if !rule.Admits(ref) {
		return nil, notReleased("the rules of %s do not let %s be released there", environment, ref)
	}
	switch {
	case len(rule.Reviewers) > 0:
		gate := &cd.Gate{Kind: "review", Who: rule.Reviewers, Reason: "Waits for a review by " + strings.Join(rule.Reviewers, " or ")}
		if rule.PreventSelfReview {
			gate.Not = []string{by.login}
		}
		return gate, nil
	case rule.Wait > 0:
		return &cd.Gate{Kind: "wait", Wait: rule.Wait, OnTimeout: cd.Continue, Reason: "Waits as long as the environment's rules say"}, nil
	}
	return nil, nil
}

// settings are the secrets and variables that services of an environment may have.
type settings struct {
	secrets   map[string]string // values
	versions  map[string]string // of the secrets
	variables map[string]string
}

func (t *settings) has(name string) bool {
	_, secret := t.secrets[name]
	_, variable := t.variables[name]
	return secret || variable
}

// settingsFor reads them; the narrower scope wins.
func (s *Server) settingsFor(ctx context.Context, repo store.Repository, environment string) (*settings, error) {
	all := &settings{map[string]string{}, map[string]string{}, map[string]string{}}
	for _, scope := range []store.Scope{{Owner: repo.Owner}, {Repository: repo.ID}, {Repository: repo.ID, Environment: environment}} {
		secrets, err := s.Store.Secrets(ctx, scope)
		if err != nil {
			return nil, err
		}
		for _, c := range secrets {
			if !c.Shows(repo.ID, repo.Private) {
				continue
			}
			value, err := s.Keys().Open(c.Value, c.Scope.String(), c.Name)
			if err != nil {
				return nil, fmt.Errorf("open the secret %s: %w", c.Name, err)
			}
			all.secrets[c.Name] = string(value)
			all.versions[c.Name] = fmt.Sprintf("%s@%d", scope, c.Updated.UnixNano())
		}
		variables, err := s.Store.Variables(ctx, scope)
		if err != nil {
			return nil, err
		}
		for _, v := range variables {
			if v.Shows(repo.ID, repo.Private) {
				all.variables[v.Name] = v.Value
			}
		}
	}
	return all, nil
}

// sources are where the revisions of a release come from.
type sources struct {
	s    *Server
	bare *forge.Bare
	repo store.Repository
	sha  string
	ask  ReleaseRequest
	one  bool // there is one service: what is handed in without a name is its

	files map[string]string // digests of what was taken from the repository, by directory
}

// handed is what was handed in for a service.
func (c *sources) handed(all map[string]string, service string) string {
	if given := all[service]; given != "" || !c.one {
		return given
	}
	return all[""]
}

// revision is what a service becomes, and the values of its secrets.
func (c *sources) revision(ctx context.Context, service *config.Service, settings *settings) (cd.Revision, map[string]string, error) {
	r := cd.Revision{
		Command: service.Command, Port: service.Port, Env: map[string]string{}, Secrets: map[string]string{}, Memory: service.Memory, CPUs: service.CPUs, Grace: service.Grace,
	}
	maps.Copy(r.Env, service.Env)
	secrets := map[string]string{}
	for _, name := range slices.Concat(service.Secrets, service.Required) {
		if _, plain := r.Env[name]; plain {
			continue
		}
		if value, ok := settings.secrets[name]; ok {
			secrets[name], r.Secrets[name] = value, settings.versions[name]
		} else {
			r.Env[name] = settings.variables[name]
		}
	}
	var err error
	artifact, image := c.handed(c.ask.Artifacts, service.Name), c.handed(c.ask.Images, service.Name)
	switch {
	case artifact != "" && (service.Image != "" || service.Build != nil):
		return r, nil, notReleased("%s is an image: hand one in, not files", service.Name)
	case artifact != "":
		if !digestText.MatchString(artifact) {
			return r, nil, notReleased("%.80q is no digest of files", artifact)
		}
		if _, err := c.s.Blobs.Stat(filesPrefix + artifact); err != nil {
			return r, nil, notReleased("the files %.12s were not handed in", artifact)
		}
		r.Artifact = artifact
	case image != "" && service.Image == "" && service.Build == nil && len(service.Command) > 0:
		return r, nil, notReleased("%s is a command with files: hand files in, not an image", service.Name)
	case image != "":
		r.Image, err = c.s.Images.Pin(ctx, image)
	case service.Image != "":
		r.Image, err = c.s.Images.Pin(ctx, service.ImageAt(c.sha))
	case service.Build != nil:
		r.Image, err = c.build(ctx, service)
	case service.Files.Artifact != "":
		r.Artifact, err = c.artifact(ctx, service.Files.Artifact)
	default:
		r.Artifact, err = c.tree(ctx, service.Files.Dir)
	}
	if err != nil {
		return r, nil, notReleased("%s: %w", service.Name, err)
	}
	return identified(r), secrets, nil
}

// build builds the image of a service of the commit's files.
func (c *sources) build(ctx context.Context, service *config.Service) (string, error) {
	b := service.Build
	name := fmt.Sprintf("%s/%s:%.12s", strings.ToLower(c.repo.FullName()), service.Name, c.sha)
	return c.s.Images.Build(ctx, name, build.Request{Name: b.Dockerfile, Target: b.Target, Args: b.Args}, func(w io.Writer) error {
		return c.bare.Archive(ctx, c.sha, b.Context, w)
	})
}

// identified gives a revision its ID.
func identified(r cd.Revision) cd.Revision {
	r.ID = ""
	text, _ := json.Marshal(r) // of maps with names in order: the same for the same
	sum := sha256.Sum256(text)
	r.ID = hex.EncodeToString(sum[:])
	return r
}

// tree keeps the files of a directory of the commit.
func (c *sources) tree(ctx context.Context, dir string) (string, error) {
	if digest := c.files[dir]; digest != "" {
		return digest, nil
	}
	digest, err := c.s.keepFiles(ctx, func(w io.Writer) error { return c.bare.Archive(ctx, c.sha, dir, w) })
	if err != nil {
		return "", err
	}
	if c.files == nil {
		c.files = map[string]string{}
	}
	c.files[dir] = digest
	return digest, nil
}

// artifact keeps the files of the newest artifact of a name that a run of the commit has made.
func (c *sources) artifact(ctx context.Context, name string) (string, error) {
	runs, err := c.s.Engine.Runs(ctx, store.Filter{Repository: c.repo.FullName(), SHA: c.sha, Limit: 100})
	if err != nil {
		return "", err
	}
	var newest *native.Artifact
	for _, run := range runs {
		found, err := c.s.Artifacts.List(fmt.Sprint(run.ID))
		if err != nil {
			return "", err
		}
		for _, a := range found {
			if a.Name == name && (newest == nil || a.ID > newest.ID) {
				newest = &a
			}
		}
	}
	if newest == nil {
		return "", fmt.Errorf("no run of %.7s has made an artifact %q", c.sha, name)
	}
	return c.s.artifactFiles(ctx, *newest)
}

// mayRelease says whether a visitor may release in a repository.
func (s *Server) mayRelease(ctx context.Context, v visitor, repo store.Repository) (bool, error) {
	if v.session != nil {
		return strings.EqualFold(v.session.repository, repo.FullName()) && auth.ParsePermissions(v.session.permissions, true).Allows("deployments", "write"), nil
	}
	role, err := s.role(ctx, v, repo)
	return err == nil && role.Allows(auth.Write), err
}
