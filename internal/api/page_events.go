package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/ci"
)

const (
	// keepAlive is how often a silent stream says that it is there, before proxies take it for dead.
	keepAlive = 20 * time.Second
	// streamLife is how long a stream lasts: who resumes it is looked at anew, and may have lost what it takes.
	streamLife = 5 * time.Minute
	// maxBehind is how many records a stream that resumes is given; who is further behind reads anew.
	maxBehind = 10_000
)

// events streams the records of a run, of a repository's runs or of all that the visitor may see, as server-sent events:
// the number of a record as ID, and as data what happened. It begins with what happens from now on, or after the record of
// Last-Event-ID. A page that gets one reads anew what it shows.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	wanted, ok := s.wanted(w, r)
	if !ok {
		return
	}
	last, err := s.Store.LastRecord(r.Context())
	if err != nil {
		s.failed(w, r, err)
		return
	}
	after := last
	if text := r.Header.Get("Last-Event-ID"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n > last {
			n = last
		}
		after = max(n, last-maxBehind)
	}
	stream := beginStream(w)
	defer stream.end()
	// The number first: a browser that loses the connection before the first record resumes from here.
	if stream.send(fmt.Sprintf("retry: 1000\nid: %d\nevent: ready\ndata: {}\n\n", after)) != nil {
		return
	}
	for ctx := r.Context(); ; {
		records, ok, news := s.hub.after(after)
		if !ok {
			if records, err = s.Store.Records(ctx, after, maxBehind); err != nil {
				return
			}
		}
		for _, rec := range records {
			after = rec.Seq
			if !wanted(ctx, rec.Run) {
				continue
			}
			data, err := json.Marshal(rec)
			if err != nil || stream.send(fmt.Sprintf("id: %d\ndata: %s\n\n", rec.Seq, data)) != nil {
				return
			}
		}
		if len(records) > 0 {
			continue
		}
		if !stream.wait(ctx, news) {
			return
		}
	}
}

// eventStream is an answer of server-sent events.
type eventStream struct {
	w     io.Writer
	out   *http.ResponseController
	alive *time.Ticker
	over  *time.Timer
}

func beginStream(w http.ResponseWriter) *eventStream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	return &eventStream{w, http.NewResponseController(w), time.NewTicker(keepAlive), time.NewTimer(streamLife)}
}

func (e *eventStream) end() {
	e.alive.Stop()
	e.over.Stop()
}

// wait waits for news and keeps the stream alive; false says that it is over.
func (e *eventStream) wait(ctx context.Context, news <-chan struct{}) bool {
	for {
		select {
		case <-news:
			return true
		case <-e.over.C:
			return false
		case <-e.alive.C:
			if e.send(": still here\n\n") != nil {
				return false
			}
		case <-ctx.Done():
			return false
		}
	}
}

func (e *eventStream) send(text string) error {
	if _, err := io.WriteString(e.w, text); err != nil {
		return err
	}
	return e.out.Flush()
}

// wanted says which runs' records a stream gives; false after the request was answered.
func (s *Server) wanted(w http.ResponseWriter, r *http.Request) (func(context.Context, ci.RunID) bool, bool) {
	if r.PathValue("run") != "" {
		run := s.runOfPage(w, r)
		if run == nil {
			return nil, false
		}
		return func(_ context.Context, id ci.RunID) bool { return id == run.ID }, true
	}
	name := ""
	if r.PathValue("repo") != "" {
		repo, ok := s.repoOfPage(w, r)
		if !ok {
			return nil, false
		}
		name = repo.FullName()
	}
	v := visitorOf(r)
	known := map[ci.RunID]bool{}
	return func(ctx context.Context, id ci.RunID) bool {
		show, ok := known[id]
		if !ok {
			show = s.shows(ctx, v, id, name)
			known[id] = show
		}
		return show
	}, true
}

// shows says whether a run is one of a repository, of any if name is empty, and for a visitor's eyes.
func (s *Server) shows(ctx context.Context, v visitor, id ci.RunID, name string) bool {
	run, err := s.Engine.Run(ctx, id)
	if err != nil || run.Plan == nil {
		return false
	}
	if name != "" {
		return strings.EqualFold(run.Plan.Repository, name)
	}
	owner, short, _ := strings.Cut(run.Plan.Repository, "/")
	repo, err := s.Store.RepositoryNamed(ctx, owner, short)
	if err != nil {
		return false
	}
	role, err := s.role(ctx, v, repo)
	return err == nil && role.Allows(auth.Read)
}
