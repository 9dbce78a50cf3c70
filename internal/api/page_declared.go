package api

import (
	"errors"
	"io/fs"
	"net/http"
	"strings"

	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/store"
)

// DeclaredView is what penstock.yaml says of environments at the head of the default branch.
type DeclaredView struct {
	Missing      bool                  `json:"missing,omitempty"` // there is no such file
	Mistake      string                `json:"mistake,omitempty"` // why it can not be read, with its place
	Environments []DeclaredEnvironment `json:"environments"`
}

// DeclaredEnvironment is an environment of penstock.yaml.
type DeclaredEnvironment struct {
	Name     string   `json:"name"`
	Services []string `json:"services"`
	Branches []string `json:"branches"` // patterns of those that deploy by themselves
}

// declaredEnvironments is GET .../environments.
func (s *Server) declaredEnvironments(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfPage(w, r)
	if !ok {
		return
	}
	view, err := s.declared(r, repo)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, view)
}

func (s *Server) declared(r *http.Request, repo store.Repository) (DeclaredView, error) {
	view := DeclaredView{Environments: []DeclaredEnvironment{}}
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil {
		return view, err
	}
	_, sha, err := commitOf(r.Context(), bare, repo.DefaultBranch)
	if err != nil {
		return view, err
	}
	if view.Missing = sha == ""; view.Missing {
		return view, nil
	}
	tree, err := bare.Tree(r.Context(), sha)
	if err != nil {
		return view, err
	}
	defer tree.Close()
	if _, err := tree.Read(config.Name); errors.Is(err, fs.ErrNotExist) {
		view.Missing = true
		return view, nil
	}
	c, err := readConfig(tree)
	if errors.Is(err, errRelease) {
		view.Mistake = strings.TrimPrefix(err.Error(), errRelease.Error()+": ")
		return view, nil
	}
	if err != nil {
		return view, err
	}
	for i := range c.Environments {
		e := DeclaredEnvironment{Name: c.Environments[i].Name, Services: []string{}, Branches: append([]string{}, c.Environments[i].Branches...)}
		for _, service := range c.ServicesOf(&c.Environments[i]) {
			e.Services = append(e.Services, service.Name)
		}
		view.Environments = append(view.Environments, e)
	}
	return view, nil
}
