package api

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/penstock-ci/penstock/internal/ci"
)

// log streams a job's log as it was written: of the attempt that is shown or ?attempt=N, from the byte ?from=N on; with
// ?follow=1 until the job ends.
func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	run := s.runOfPage(w, r)
	if run == nil {
		return
	}
	query := r.URL.Query()
	id, attempt, ok := jobOfPage(run, r)
	from, err := strconv.ParseInt("0"+query.Get("from"), 10, 64)
	if err != nil || !ok {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Security-Policy", "sandbox")
	h.Set("Cache-Control", "no-store")
	if query.Get("download") != "" {
		h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=run-%d-attempt-%d.log", run.ID, attempt))
	}
	if query.Get("follow") != "" {
		s.follow(w, r, run.ID, attempt, id, from)
		return
	}
	f, err := s.Engine.Log(run.ID, attempt, id)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	if f == nil {
		return // nothing was written yet
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		s.failed(w, r, err)
		return
	}
	_, _ = io.Copy(w, f) // the client has gone
}

// jobOfPage is the job of a request's path and the attempt that is asked for; false if there is none.
func jobOfPage(run *ci.Run, r *http.Request) (id ci.JobID, attempt int, ok bool) {
	name, err := url.PathUnescape(r.PathValue("job")) // the IDs of matrix cells have a slash
	if err != nil {
		return "", 0, false
	}
	j := run.Job(ci.JobID(name))
	if j == nil {
		return "", 0, false
	}
	attempt = max(j.Attempt, 1)
	if text := r.URL.Query().Get("attempt"); text != "" {
		if attempt, err = strconv.Atoi(text); err != nil || attempt < 1 || attempt > run.Attempt {
			return "", 0, false
		}
	}
	return j.ID, attempt, true
}

// logTimes answers when the bytes of a log came: pairs of an offset and the milliseconds since 1970.
func (s *Server) logTimes(w http.ResponseWriter, r *http.Request) {
	run := s.runOfPage(w, r)
	if run == nil {
		return
	}
	id, attempt, ok := jobOfPage(run, r)
	if !ok {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	marks, err := s.Engine.LogTimes(run.ID, attempt, id)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	out := make([][2]int64, len(marks))
	for i, m := range marks {
		out[i] = [2]int64{m.Offset, m.At.UnixMilli()}
	}
	writeJSON(w, http.StatusOK, out)
}

// follow writes a log as it grows.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, run ci.RunID, attempt int, job ci.JobID, from int64) {
	out := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	_ = out.Flush()
	for p, err := range s.Engine.Follow(r.Context(), run, attempt, job, from) {
		if err != nil {
			return
		}
		if _, err := w.Write(p); err != nil || out.Flush() != nil {
			return
		}
	}
}
