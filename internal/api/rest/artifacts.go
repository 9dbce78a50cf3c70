package rest

import (
	"errors"
	"io/fs"
	"mime"
	"net/http"
	"slices"
	"strconv"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/job/native"
	"github.com/penstock-ci/penstock/internal/store"
)

var artifactRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/actions/artifacts", scopes: readActions, handle: (*call).listArtifacts},
	{pattern: "GET /repos/{owner}/{repo}/actions/artifacts/{id:[0-9]+}", scopes: readActions, handle: (*call).getArtifact},
	{pattern: "DELETE /repos/{owner}/{repo}/actions/artifacts/{id:[0-9]+}", scopes: writeActions, handle: (*call).deleteArtifact, audit: "artifact.destroy"},
	{pattern: "GET /repos/{owner}/{repo}/actions/artifacts/{id:[0-9]+}/{format}", scopes: readActions, handle: (*call).downloadArtifact},
	{pattern: "GET /repos/{owner}/{repo}/actions/runs/{id:[0-9]+}/artifacts", scopes: readActions, handle: (*call).runArtifacts},
}

func (c *call) artifactObject(a native.Artifact, r store.Summary) object {
	self := c.url("/actions/artifacts/%d", a.ID)
	return object{
		"id": a.ID, "node_id": "artifact_" + text(a.ID), "name": a.Name, "size_in_bytes": a.Size, "digest": orNull(a.Digest), "url": self, "archive_download_url": self + "/zip",
		"expired": c.Artifacts.Expired(a), "created_at": stamp(a.Created), "updated_at": stamp(a.Created), "expires_at": stamp(a.Expires), "workflow_run": object{
			"id": r.ID, "repository_id": c.repo.ID, "head_repository_id": c.repo.ID, "head_branch": r.Branch, "head_sha": r.SHA,
		},
	}
}

// runOf is the run of an artifact, if it is one of the repository.
func (c *call) runOf(run string) (store.Summary, error) {
	id, err := strconv.ParseInt(run, 10, 64)
	if err != nil {
		return store.Summary{}, errNotFound
	}
	r, err := c.runByID(ci.RunID(id))
	if err != nil {
		return store.Summary{}, err
	}
	return viewOf(r).Summary, nil
}

// artifactsOf shows the artifacts of runs, the newest first, that the query's name chooses.
func (c *call) artifactsOf(runs ...store.Summary) (any, error) {
	name := c.r.URL.Query().Get("name")
	list := []object{}
	for _, r := range runs {
		all, err := c.Artifacts.All(strconv.FormatInt(int64(r.ID), 10))
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			if name == "" || name == a.Name {
				list = append(list, c.artifactObject(a, r))
			}
		}
	}
	return object{"total_count": len(list), "artifacts": paged(c, list)}, nil
}

func (c *call) listArtifacts() (any, error) {
	ids, err := c.Artifacts.Runs()
	if err != nil {
		return nil, err
	}
	known, err := c.Runs.Engine.Runs(c.ctx, store.Filter{Repository: c.repo.Name, Limit: maxList})
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, id := range ids {
		has[id] = true
	}
	known = slices.DeleteFunc(known, func(r store.Summary) bool { return !has[strconv.FormatInt(int64(r.ID), 10)] })
	return c.artifactsOf(known...)
}

func (c *call) runArtifacts() (any, error) {
	r, err := c.run()
	if err != nil {
		return nil, err
	}
	return c.artifactsOf(viewOf(r).Summary)
}

// artifact is that of the path.
func (c *call) artifact() (a native.Artifact, r store.Summary, err error) {
	id, err := c.number("id")
	if err != nil {
		return a, r, err
	}
	a, err = c.Artifacts.Find(id)
	if errors.Is(err, fs.ErrNotExist) {
		return a, r, errNotFound
	}
	if err != nil {
		return a, r, err
	}
	r, err = c.runOf(a.Run)
	return a, r, err
}

func (c *call) getArtifact() (any, error) {
	a, r, err := c.artifact()
	if err != nil {
		return nil, err
	}
	return c.artifactObject(a, r), nil
}

func (c *call) deleteArtifact() (any, error) {
	a, _, err := c.artifact()
	if err != nil {
		return nil, err
	}
	c.tell("artifact %s is deleted", a.Name)
	return noContent, c.Artifacts.Delete(a)
}

// downloadArtifact gives the bytes at once, where GitHub answers with an address that has them.
func (c *call) downloadArtifact() (any, error) {
	a, _, err := c.artifact()
	if err != nil {
		return nil, err
	}
	if c.part("format") != "zip" {
		return nil, errNotFound
	}
	if c.Artifacts.Expired(a) {
		return nil, &Error{Status: http.StatusGone, Message: "Artifact has expired"}
	}
	f, err := c.Artifacts.Open(a)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	name, kind := a.Name+".zip", "application/zip"
	if a.Raw {
		name, kind = a.Name, "application/octet-stream"
	}
	c.w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	return &file{contentType: kind, content: f, modified: a.Created}, nil
}
