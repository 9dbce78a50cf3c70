package job

import (
	"maps"
	"net"
	"strings"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Services serves what JavaScript actions call while their job runs: artifacts, caches, the repository.
type Services interface {
	// Serve answers a task's actions on l, which it closes, until stop is called. What stop gives is said at the job's end.
	Serve(l net.Listener, t *ci.Task) (address ServiceAddress, stop func() []string)
}

// ServiceAddress says where a job's services are.
type ServiceAddress struct {
	// Env are the variables by which actions find them (actions/runner NodeScriptActionHandler.cs). `run:` steps do not
	// get them.
	Env map[string]string
	// Steps are those that actions and `run:` steps have: how they ask for an OpenID Connect token, with the permission, and
	// where penstock finds the server.
	Steps map[string]string
	// Git is the origin that the job's repository is fetched from, with Token as password; empty for none.
	Git, Token string
	// API is where GitHub's API is answered, REST below /v3, for a job that has no token of GitHub's: Token is good for it
	// and for nothing else. Empty for none.
	API string
	// Server says that they are the server which the run is of: what the machine reaches at Git is github.server_url,
	// and takes pushes.
	Server bool
}

// offerServices brings the services up. A job that was given no token for GitHub has theirs.
func (e *execution) offerServices() {
	n, ok := e.sb.(sandbox.Networked)
	if !ok || e.x.Services == nil {
		return
	}
	l, err := n.Listen(e.ctx, 0)
	if err != nil {
		e.log.line("##[warning]no services for actions: %s", err)
		return
	}
	address, stop := e.x.Services.Serve(l, e.t)
	e.mask.add(address.Token)
	e.services, e.endServices = &address, func() { e.say(stop()) }
	if address.API == "" {
		return
	}
	token := expr.String(address.Token)
	e.github = e.github.With("token", token).With("api_url", expr.String(address.API+"/v3")).With("graphql_url", expr.String(address.API+"/graphql"))
	if secrets := e.base["secrets"]; secrets.Property("GITHUB_TOKEN").Text() == "" {
		e.base["secrets"] = secrets.With("GITHUB_TOKEN", token)
	}
}

// say tells of what services did, at the job's end.
func (e *execution) say(notes []string) {
	for _, note := range notes {
		e.annotate(0, ci.Annotation{Level: "notice", Message: note})
	}
}

// ownToken says that a token is good for the job's own services alone: no server of GitHub's knows it.
func (e *execution) ownToken(token string) bool {
	return e.services != nil && e.services.API != "" && token == e.services.Token
}

// addServices gives an action what it finds the services by. The original checkout fetches from the server that
// github.server_url names: for the job's own repository, which no server may have, that is ours.
func (e *execution) addServices(env map[string]string, a *action, inputs map[string]string) {
	address := e.services
	if address == nil {
		return
	}
	maps.Copy(env, address.Env)
	maps.Copy(env, address.Steps)
	own := inputs["repository"] == "" || strings.EqualFold(inputs["repository"], e.t.Repository)
	if address.Git != "" && (own || address.Server) && strings.EqualFold(a.repository, "actions/checkout") {
		env["GITHUB_SERVER_URL"] = address.Git
		if env["INPUT_TOKEN"] == "" {
			env["INPUT_TOKEN"] = address.Token
		}
	}
}

// Docker answers the docker command of machines that have no Docker daemon.
type Docker interface {
	// Serve answers what runs in sb on l, which it closes, until stop is called. What stop gives is said at the job's end.
	Serve(l net.Listener, sb sandbox.Sandbox) (stop func() []string)
}

// dockerSocket is the name of the socket in Info.Files.
const dockerSocket = "docker.sock"

// offerDocker has the docker command of the machine answered, and gives what ends that.
func (e *execution) offerDocker() func() {
	n, ok := e.sb.(sandbox.LocalListener)
	if !ok || e.x.Docker == nil || e.inImage {
		return func() {}
	}
	l, err := n.ListenLocal(dockerSocket)
	if err != nil {
		e.log.line("##[debug]no docker command: %s", err)
		return func() {}
	}
	stop := e.x.Docker.Serve(l, e.sb)
	return func() { e.say(stop()) }
}
