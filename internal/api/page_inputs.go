package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"

	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/expr"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/store"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// input is an input of workflow_dispatch as a form needs it.
type input struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Type        string   `json:"type"`
	Required    bool     `json:"required"`
	Default     string   `json:"default,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// inputs answers what a workflow asks of who starts it, as it is at ?ref=.
func (s *Server) inputs(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfPage(w, r)
	if !ok {
		return
	}
	id, err := strconv.ParseInt(r.PathValue("workflow"), 10, 64)
	if err != nil {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	known, err := s.Store.Workflow(r.Context(), repo.ID, id)
	if errors.Is(err, store.ErrNotFound) {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	parsed, err := s.workflowAt(r.Context(), repo, known.Path, r.URL.Query().Get("ref"))
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	t := parsed.On.Find("workflow_dispatch")
	if t == nil {
		refuse(w, http.StatusUnprocessableEntity, "This workflow has no 'workflow_dispatch' trigger: nobody can start it by hand")
		return
	}
	out := []input{}
	for _, in := range t.Inputs {
		o := input{Name: in.Name, Description: in.Description, Type: in.Type, Required: in.Required, Options: in.Options}
		if v, err := in.Default.Eval(expr.Env{}); err == nil {
			o.Default = v.Text()
		}
		if in.Type == "environment" {
			all, err := s.Store.Environments(r.Context(), repo.ID)
			if err != nil {
				s.failed(w, r, err)
				return
			}
			o.Options = []string{}
			for _, e := range all {
				o.Options = append(o.Options, e.Name)
			}
		}
		out = append(out, o)
	}
	writeJSON(w, http.StatusOK, map[string]any{"inputs": out})
}

// workflowAt reads a workflow as it is at a branch or tag.
func (s *Server) workflowAt(ctx context.Context, repo store.Repository, path, ref string) (*workflow.Workflow, error) {
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil {
		return nil, err
	}
	if ref == "" {
		ref = repo.DefaultBranch
	}
	ev, err := bare.Event(ctx, s.scene(repo, forge.Account{}), "workflow_dispatch", map[string]any{"ref": ref})
	if err != nil {
		return nil, err
	}
	tree, err := bare.Tree(ctx, ev.SHA)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	f, err := tree.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s at %s", path, ref)
	}
	if err != nil {
		return nil, err
	}
	parsed, err := engine.ParseWorkflows([]forge.File{f})
	if err != nil {
		return nil, err
	}
	return parsed[0], nil
}
