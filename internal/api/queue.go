package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/penstock-ci/penstock/internal/api/rest"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/blob"
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/runner"
	"github.com/penstock-ci/penstock/internal/store"
)

// The queue of tasks over HTTP, for runners elsewhere: they ask, the server only answers (runner.Remote is the client).
// A status of 409 says that a lease has ended, 416 that bytes of a log are missing, 401 that the runner is not known (any
// more), 408 and 5xx that one should try again, and any other that another try is of no use.

const (
	// leasePatience is how long a runner's question for a task is held open: less than proxies wait.
	leasePatience = 50 * time.Second
	// maxJoining bounds what a runner tells of itself, and all that is no more than a lease, bytes.
	maxJoining = 64 << 10
	// maxReport bounds what a runner tells of a job at once, and maxLogPart a piece of a log, bytes.
	maxReport  = 16 << 20
	maxLogPart = 4 << 20
	// seenEvery is how exactly it is known when a runner was there last.
	seenEvery = time.Minute
)

type runnerKey struct{}

// queue are the routes of runner.QueuePath.
func (s *Server) queue() http.Handler {
	mux := chi.NewRouter()
	mux.NotFound(func(w http.ResponseWriter, r *http.Request) { refuse(w, http.StatusNotFound, "Not Found") })
	mux.Post(runner.QueuePath+"/join", s.join)
	mux.Group(func(mux chi.Router) {
		mux.Use(s.onlyRunners)
		mux.Get(runner.QueuePath+"/machine", s.connectMachine)
		mux.Post(runner.QueuePath+"/leave", s.leave)
		mux.Post(runner.QueuePath+"/lease", s.leaseTask)
		mux.Post(runner.QueuePath+"/renew", s.renew)
		mux.Post(runner.QueuePath+"/report", s.report)
		mux.Post(runner.QueuePath+"/log", s.appendLog)
		mux.Post(runner.QueuePath+"/finish", s.finish)
	})
	return mux
}

// onlyRunners lets in who shows the token of a runner that has joined.
func (s *Server) onlyRunners(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := tokenOf(r)
		known, err := store.Runner{}, error(store.ErrNotFound)
		if auth.CheckToken(token) == nil {
			known, err = s.runnerBy(r.Context(), token)
		}
		if errors.Is(err, store.ErrNotFound) {
			s.refuseStranger(w, r, "This runner is not known: it was removed, or never joined")
			return
		}
		if err != nil {
			s.failed(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), runnerKey{}, known)))
	})
}

// refuseStranger answers who has no token that is good here, and may not try others as fast as they can.
func (s *Server) refuseStranger(w http.ResponseWriter, r *http.Request, message string) {
	if s.strangerWithin(w, r) {
		refuse(w, http.StatusUnauthorized, message)
	}
}

// runnerBy finds the runner of a token and notes that it is there.
func (s *Server) runnerBy(ctx context.Context, token string) (store.Runner, error) {
	known, err := s.Store.RunnerByHash(ctx, auth.HashToken(token))
	if err != nil {
		return known, err
	}
	if seen := s.present.note(known.ID, time.Now()); len(seen) > 0 {
		err = s.Store.TouchRunners(context.WithoutCancel(ctx), seen)
	}
	return known, err
}

// presence is who was there and is not stored yet: many runners that wait are one write a minute, not one each.
type presence struct {
	mu     sync.Mutex
	seen   map[int64]time.Time // by runner
	stored time.Time           // last
}

// note notes a runner, and gives what is to be stored if it is time for that.
func (p *presence) note(id int64, now time.Time) map[int64]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[int64]time.Time{}
	}
	p.seen[id] = now
	if now.Sub(p.stored) < seenEvery {
		return nil
	}
	due := p.seen
	p.seen, p.stored = nil, now
	return due
}

func runnerOf(r *http.Request) store.Runner { return r.Context().Value(runnerKey{}).(store.Runner) }

// join makes a runner of who has a registration token, known from then on by a token of its own making.
func (s *Server) join(w http.ResponseWriter, r *http.Request) {
	var in runner.Joining
	if !readTold(w, r, maxJoining, &in) {
		return
	}
	if err := s.Keys().CheckGrant(in.Token, rest.RegisterRunner, time.Now()); err != nil {
		s.refuseStranger(w, r, "The registration token is not valid, or has expired: they are good for an hour")
		return
	}
	token := in.Own
	if auth.CheckToken(token) != nil {
		refuse(w, http.StatusUnprocessableEntity, "A runner brings a token of its own making, to be known by: this is none")
		return
	}
	added := &store.Runner{
		Name: in.Name, OS: in.OS, Arch: in.Arch, Labels: in.Labels, Ephemeral: in.Ephemeral, Hash: auth.HashToken(token), Created: time.Now().UTC(), Seen: time.Now().UTC(),
	}
	err := s.Store.AddRunner(r.Context(), added)
	switch {
	case errors.Is(err, store.ErrExists):
		if known, err := s.Store.RunnerByHash(r.Context(), added.Hash); err == nil && strings.EqualFold(known.Name, in.Name) {
			writeJSON(w, http.StatusCreated, runner.Joined{ID: known.ID, Token: token}) // the answer did not reach it before
			return
		}
		refuse(w, http.StatusConflict, "There is a runner of the name "+in.Name+": remove it, or take another name")
		return
	case errors.Is(err, store.ErrUnfit):
		refuse(w, http.StatusUnprocessableEntity, err.Error())
		return
	case err == nil:
		if err = s.audit(r.Context(), "runner "+in.Name, "runner.register", "", map[string]any{"id": added.ID, "labels": added.AllLabels()}); err != nil {
			err = errors.Join(err, s.Store.DeleteRunner(context.WithoutCancel(r.Context()), added.ID)) // nobody will know its token
		}
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, runner.Joined{ID: added.ID, Token: token})
}

// leave removes a runner that asks for it.
func (s *Server) leave(w http.ResponseWriter, r *http.Request) {
	if err := s.removeRunner(r.Context(), runnerOf(r)); err != nil {
		s.failed(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, struct{}{})
}

// leaseTask answers a task as soon as there is one, and 204 if there is none for a while.
func (s *Server) leaseTask(w http.ResponseWriter, r *http.Request) {
	// Until a body is read to its end the server does not look whether the other side is still there, and a job would be
	// leased to a runner that has gone.
	if _, ok := readPart(w, r, maxJoining); !ok {
		return
	}
	who := runnerOf(r)
	if begun, err := s.begunOnce(r.Context(), who); err != nil || begun != (ci.Lease{}) {
		s.refuseSpent(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), leasePatience)
	defer cancel()
	t, err := s.Engine.Lease(ctx, ci.Runner{Name: who.Name, Labels: who.AllLabels()})
	switch {
	case t != nil:
		s.hand(w, r, t)
	case ctx.Err() != nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		s.failed(w, r, err)
	}
}

// hand gives a task to the runner that asked for it, unless it has gone, was removed or is another one by now: a question
// may have been open for long. Then the job is queued again at once.
func (s *Server) hand(w http.ResponseWriter, r *http.Request, t *ci.Task) {
	who := runnerOf(r)
	known, err := s.Store.Runner(r.Context(), who.ID)
	var begun ci.Lease
	if err == nil {
		begun, err = s.begunOnce(r.Context(), who)
	}
	switch {
	case r.Context().Err() != nil:
		s.takeBack(r, t, "had gone when the job was given to it")
	case errors.Is(err, store.ErrNotFound):
		s.takeBack(r, t, "was removed")
		refuse(w, http.StatusUnauthorized, "This runner was removed")
	case err != nil:
		s.takeBack(r, t, "could not be looked up")
		s.failed(w, r, err)
	case begun != (ci.Lease{}):
		s.takeBack(r, t, "is ephemeral and has had its job")
		s.refuseSpent(w, r, nil)
	case !slices.Equal(known.AllLabels(), who.AllLabels()):
		s.takeBack(r, t, "has other labels by now")
		w.WriteHeader(http.StatusNoContent) // it asks again
	default:
		w.Header().Set("Cache-Control", "no-store") // it has secrets
		writeJSON(w, http.StatusOK, t)
	}
}

// takeBack ends a lease that its runner does not know of. If that fails, the lease runs out.
func (s *Server) takeBack(r *http.Request, t *ci.Task, why string) {
	lost := ci.Lost{Job: t.Job, Lease: t.Lease, Reason: "The runner " + runnerOf(r).Name + " " + why + "."}
	if err := s.Engine.Update(context.WithoutCancel(r.Context()), t.Run, lost); err != nil {
		s.Log.Warn("a job is queued again a little later", "run", t.Run, "job", t.Job, "error", err)
	}
}

// leaseIn says whether a request names a lease.
func leaseIn(l ci.Lease) bool { return l.Run > 0 && l.Job != "" && l.ID != "" }

const leaseEnded = "The lease on the job has ended"

// its says that a lease that has not ended is the runner's that speaks of it; false after it was answered that it has ended, for this
// one. (Of one that has ended the engine says so.)
func (s *Server) its(w http.ResponseWriter, r *http.Request, l ci.Lease) bool {
	if holder, ok := s.Engine.Holder(l); ok && holder != runnerOf(r).Name {
		refuse(w, http.StatusConflict, leaseEnded)
		return false
	}
	return true
}

// answerQueue answers what the engine said.
func (s *Server) answerQueue(w http.ResponseWriter, r *http.Request, err error, out any) {
	var gap *blob.GapError
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, out)
	case errors.Is(err, ci.ErrStale) || errors.Is(err, ci.ErrUnknownJob) || errors.Is(err, store.ErrNotFound):
		refuse(w, http.StatusConflict, leaseEnded)
	case errors.As(err, &gap):
		writeJSON(w, http.StatusRequestedRangeNotSatisfiable, runner.Gap{Size: gap.Size, Message: gap.Error()})
	default:
		s.failed(w, r, err)
	}
}

func (s *Server) renew(w http.ResponseWriter, r *http.Request) {
	var l ci.Lease
	if !readTold(w, r, maxJoining, &l) {
		return
	}
	if !s.its(w, r, l) {
		return
	}
	signal, err := s.Engine.Renew(r.Context(), l)
	s.answerQueue(w, r, err, runner.Renewed{Signal: signal})
}

func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	var in runner.Reporting
	if !readTold(w, r, maxReport, &in) {
		return
	}
	if !s.its(w, r, in.Lease) {
		return
	}
	if ok, err := s.beginOnce(r.Context(), runnerOf(r), in.Lease); !ok {
		s.refuseSpent(w, r, err)
		return
	}
	s.answerQueue(w, r, s.Engine.Report(r.Context(), in.Lease, in.Report), struct{}{})
}

func (s *Server) finish(w http.ResponseWriter, r *http.Request) {
	var in runner.Finishing
	if !readTold(w, r, maxReport, &in) {
		return
	}
	if !s.its(w, r, in.Lease) {
		return
	}
	err := s.Engine.Finish(r.Context(), in.Lease, in.Result)
	if errors.Is(err, ci.ErrStale) && s.finished(r, in) {
		err = nil
	}
	if who := runnerOf(r); err == nil && who.Ephemeral {
		err = s.removeRunner(context.WithoutCancel(r.Context()), who)
	}
	s.answerQueue(w, r, err, struct{}{})
}

// finished says whether a result was taken before: the answer may not have reached its runner, which then says it again.
func (s *Server) finished(r *http.Request, in runner.Finishing) bool {
	run, err := s.Engine.Run(r.Context(), in.Lease.Run)
	if err != nil {
		return false
	}
	j := run.Job(in.Lease.Job)
	return j != nil && j.Status == ci.Completed && j.Runner == runnerOf(r).Name && j.Conclusion == in.Result.Conclusion && j.Reason == in.Result.Reason
}

// appendLog adds a piece of a log, whose lease and offset are in the query.
func (s *Server) appendLog(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	run, err := strconv.ParseInt(query.Get("run"), 10, 64)
	offset, err2 := strconv.ParseInt(query.Get("offset"), 10, 64)
	l := ci.Lease{Run: ci.RunID(run), Job: ci.JobID(query.Get("job")), ID: ci.LeaseID(query.Get("lease"))}
	if err != nil || err2 != nil || offset < 0 || !leaseIn(l) {
		refuse(w, http.StatusUnprocessableEntity, "run, job, lease and offset say where the bytes belong")
		return
	}
	data, ok := readPart(w, r, maxLogPart)
	if !ok || !s.its(w, r, l) {
		return
	}
	s.answerQueue(w, r, s.Engine.Append(r.Context(), l, offset, data), struct{}{})
}

// readPart reads a whole body of at most limit bytes; false after it was answered that it did not come, or is too large.
// Nothing is done with half of one.
func readPart(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, bool) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		refuse(w, http.StatusRequestEntityTooLarge, "at most "+strconv.FormatInt(limit, 10)+" bytes are taken at once")
	case err != nil:
		refuse(w, http.StatusRequestTimeout, "the request did not come to its end")
	}
	return data, err == nil
}

// readTold reads what a runner tells; false after it was answered that it can not be read.
func readTold(w http.ResponseWriter, r *http.Request, limit int64, into any) bool {
	text, ok := readPart(w, r, limit)
	if ok && json.Unmarshal(text, into) != nil {
		refuse(w, http.StatusBadRequest, "Problems parsing JSON")
		return false
	}
	return ok
}
