package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// An ephemeral runner has one job. The server holds it to that, for the job may have got hold of the runner's token: from
// the moment a job is begun the runner is given no other.

// kindSpent is the document that says which lease an ephemeral runner has begun, named by the runner's ID.
const kindSpent = "runner-spent"

// begunOnce gives the lease under which an ephemeral runner has begun its job, the zero one if it has not.
func (s *Server) begunOnce(ctx context.Context, who store.Runner) (l ci.Lease, err error) {
	if !who.Ephemeral {
		return l, nil
	}
	d, err := s.Store.DocumentNamed(ctx, serverDocs, kindSpent, "", strconv.FormatInt(who.ID, 10))
	if errors.Is(err, store.ErrNotFound) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	return l, json.Unmarshal(d.Body, &l)
}

// beginOnce notes that a runner begins its job, and says whether it may: not if it has begun another.
func (s *Server) beginOnce(ctx context.Context, who store.Runner, l ci.Lease) (bool, error) {
	if !who.Ephemeral || !s.Engine.Holds(l) {
		return true, nil
	}
	for {
		begun, err := s.begunOnce(ctx, who)
		if err != nil || begun != (ci.Lease{}) {
			return begun == l, err
		}
		body, err := json.Marshal(l)
		if err != nil {
			return false, err
		}
		err = s.Store.AddDocument(ctx, &store.Document{Repository: serverDocs, Kind: kindSpent, Name: strconv.FormatInt(who.ID, 10), Body: body})
		if !errors.Is(err, store.ErrExists) {
			return err == nil, err
		}
	}
}

// refuseSpent answers an ephemeral runner that wants another job, or that err kept it from being known.
func (s *Server) refuseSpent(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		s.failed(w, r, err)
		return
	}
	refuse(w, http.StatusUnauthorized, "This runner is ephemeral and has had its job")
}

// removeRunner removes a runner and what is known of it. One that is not there any more is no error.
func (s *Server) removeRunner(ctx context.Context, who store.Runner) error {
	err := s.Store.DeleteRunner(ctx, who.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) || !who.Ephemeral {
		return ignoreGone(err)
	}
	d, err := s.Store.DocumentNamed(ctx, serverDocs, kindSpent, "", strconv.FormatInt(who.ID, 10))
	if err == nil {
		err = s.Store.DeleteDocument(ctx, d.ID)
	}
	return ignoreGone(err)
}

func ignoreGone(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
