package rest

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/store"
)

// Runners of this server take the jobs of all repositories. So the routes of a repository and those of an organisation are
// about the same runners, and are for administrators of the server.

// The purposes of the grants that runners join and leave with (auth.Keyring.CheckGrant).
const (
	RegisterRunner = "register a runner"
	RemoveRunner   = "remove a runner"
)

const (
	runnerTokenLife = time.Hour // as on GitHub
	// runnerAway is how long after it was seen last a runner is taken for gone.
	runnerAway = 3 * time.Minute
)

// runnerRoutes are those of the two places.
func runnerRoutes() (out []route) {
	for _, place := range []string{"/repos/{owner}/{repo}", "/orgs/{org}"} {
		path := place + "/actions/runners"
		read, write := needs("administration:read"), needs("administration:write")
		one := path + "/{id:[0-9]+}"
		for _, rt := range []route{
			{pattern: "GET " + path, scopes: read, handle: (*call).listRunners},
			{pattern: "POST " + path + "/registration-token", scopes: write, handle: (*call).registrationToken, audit: "runner.registration_token"},
			{pattern: "POST " + path + "/remove-token", scopes: write, handle: (*call).removeToken, audit: "runner.remove_token"},
			{pattern: "GET " + one, scopes: read, handle: (*call).getRunner},
			{pattern: "DELETE " + one, scopes: write, handle: (*call).deleteRunner, audit: "runner.remove"},
			{pattern: "GET " + one + "/labels", scopes: read, handle: (*call).runnerLabels},
			{pattern: "POST " + one + "/labels", scopes: write, handle: (*call).addRunnerLabels, audit: "runner.labels"},
			{pattern: "PUT " + one + "/labels", scopes: write, handle: (*call).setRunnerLabels, audit: "runner.labels"},
			{pattern: "DELETE " + one + "/labels", scopes: write, handle: (*call).clearRunnerLabels, audit: "runner.labels"},
			{pattern: "DELETE " + one + "/labels/{name}", scopes: write, handle: (*call).removeRunnerLabel, audit: "runner.labels"},
		} {
			handle := rt.handle
			rt.handle = func(c *call) (any, error) {
				if !c.by.Admin {
					return nil, &Error{Status: http.StatusForbidden, Message: "Runners take the jobs of all repositories: only administrators of the server manage them"}
				}
				return handle(c)
			}
			out = append(out, rt)
		}
	}
	return out
}

func (c *call) registrationToken() (any, error) { return c.runnerToken(RegisterRunner) }

func (c *call) removeToken() (any, error) { return c.runnerToken(RemoveRunner) }

func (c *call) runnerToken(purpose string) (any, error) {
	until := c.Now().UTC().Add(runnerTokenLife)
	return created(object{"token": c.Keys().Grant(purpose, until), "expires_at": stamp(until)}), nil
}

// busyRunners are the names of those that have a job.
func (c *call) busyRunners() (map[string]bool, error) {
	active, err := c.Store.Active(c.ctx)
	if err != nil {
		return nil, err
	}
	busy := map[string]bool{}
	for _, id := range active {
		r, err := c.Runs.Engine.Run(c.ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, j := range r.Jobs {
			if j.Lease != "" {
				busy[j.Runner] = true
			}
		}
	}
	return busy, nil
}

// labelsOf are a runner's: its own are custom, the others can not be changed.
func labelsOf(r store.Runner) []object {
	list := []object{}
	all := r.AllLabels()
	for i, name := range all {
		kind := "read-only"
		if i >= len(all)-len(r.Labels) {
			kind = "custom"
		}
		list = append(list, object{"id": i + 1, "name": name, "type": kind})
	}
	return list
}

func (c *call) runnerObject(r store.Runner, busy map[string]bool) object {
	status := "offline"
	if c.Now().Sub(r.Seen) < runnerAway {
		status = "online"
	}
	return object{
		"id": r.ID, "name": r.Name, "os": strings.ToLower(r.OS), "status": status, "busy": busy[r.Name], "ephemeral": r.Ephemeral, "labels": labelsOf(r), "runner_group_id": 1,
	}
}

func (c *call) listRunners() (any, error) {
	all, err := c.Store.Runners(c.ctx, 0, maxList)
	if err != nil {
		return nil, err
	}
	if name := c.r.URL.Query().Get("name"); name != "" {
		all = slices.DeleteFunc(all, func(r store.Runner) bool { return r.Name != name })
	}
	busy, err := c.busyRunners()
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, r := range paged(c, all) {
		list = append(list, c.runnerObject(r, busy))
	}
	return object{"total_count": len(all), "runners": list}, nil
}

func (c *call) runner() (store.Runner, error) {
	id, err := c.number("id")
	if err != nil {
		return store.Runner{}, err
	}
	return c.Store.Runner(c.ctx, id)
}

func (c *call) getRunner() (any, error) {
	r, err := c.runner()
	if err != nil {
		return nil, err
	}
	busy, err := c.busyRunners()
	if err != nil {
		return nil, err
	}
	return c.runnerObject(r, busy), nil
}

// deleteRunner takes the runner's token from it. A job that it has is lost with its lease.
func (c *call) deleteRunner() (any, error) {
	r, err := c.runner()
	if err != nil {
		return nil, err
	}
	return noContent, c.Store.DeleteRunner(c.ctx, r.ID)
}

func (c *call) runnerLabels() (any, error) {
	r, err := c.runner()
	if err != nil {
		return nil, err
	}
	list := labelsOf(r)
	return object{"total_count": len(list), "labels": list}, nil
}

// relabel gives a runner what change makes of its own labels.
func (c *call) relabel(change func(r store.Runner) ([]string, error)) (any, error) {
	r, err := c.runner()
	if err != nil {
		return nil, err
	}
	if r.Labels, err = change(r); err != nil {
		return nil, err
	}
	err = c.Store.SetRunnerLabels(c.ctx, r.ID, r.Labels)
	if errors.Is(err, store.ErrUnfit) {
		return nil, invalid("Runner", "labels", "invalid", err.Error())
	}
	if err != nil {
		return nil, err
	}
	list := labelsOf(r)
	return object{"total_count": len(list), "labels": list}, nil
}

// withLabels adds names to a runner's own labels, each once whatever its case.
func withLabels(r store.Runner, names []string) []string {
	own := r.Labels
	for _, name := range names {
		r.Labels = own
		if !r.HasLabel(name) {
			own = append(own, name)
		}
	}
	return own
}

func (c *call) addRunnerLabels() (any, error) {
	if c.in["labels"] == nil {
		return nil, invalid("Runner", "labels", "missing_field", "")
	}
	return c.relabel(func(r store.Runner) ([]string, error) { return withLabels(r, c.namedLabels()), nil })
}

func (c *call) setRunnerLabels() (any, error) {
	if c.in["labels"] == nil {
		return nil, invalid("Runner", "labels", "missing_field", "")
	}
	return c.relabel(func(r store.Runner) ([]string, error) {
		r.Labels = nil
		return withLabels(r, c.namedLabels()), nil
	})
}

func (c *call) clearRunnerLabels() (any, error) {
	return c.relabel(func(store.Runner) ([]string, error) { return nil, nil })
}

func (c *call) removeRunnerLabel() (any, error) {
	return c.relabel(func(r store.Runner) ([]string, error) {
		at := slices.IndexFunc(r.Labels, func(l string) bool { return strings.EqualFold(l, c.part("name")) })
		if at >= 0 {
			return slices.Delete(slices.Clone(r.Labels), at, at+1), nil
		}
		if r.HasLabel(c.part("name")) {
			return nil, unprocessable("Label %s is read-only", c.part("name"))
		}
		return nil, errNotFound
	})
}
