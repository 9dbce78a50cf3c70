package api

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/store"
)

const (
	// trafficStep is how far the points of charts are apart, at least; no chart has more than maxPoints.
	trafficStep = 10 * time.Second
	maxPoints   = 360
	maxLogLines = 10_000
)

// TrafficView is the traffic of the services of an environment, as charts show it.
type TrafficView struct {
	Step     int         `json:"step"` // seconds between two points
	Services []TrafficOf `json:"services"`
}

// TrafficOf is the traffic of one service.
type TrafficOf struct {
	Service string        `json:"service"`
	Pools   []PoolTraffic `json:"pools"`
}

// PoolTraffic is what went to one release.
type PoolTraffic struct {
	Release cd.ReleaseID   `json:"release"`
	Number  int64          `json:"number"`
	Points  []TrafficPoint `json:"points"`
}

// TrafficPoint is what was measured in the step that ends At, in seconds of Unix time.
type TrafficPoint struct {
	At       int64    `json:"at"`
	Requests float64  `json:"requests"` // a second
	Errors   *float64 `json:"errors"`   // percent of them, null without requests, as those below
	P50      *float64 `json:"p50"`      // milliseconds
	P99      *float64 `json:"p99"`
}

// traffic is GET .../environments/{environment}/traffic?minutes=N.
func (s *Server) traffic(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	minutes, err := strconv.Atoi(r.URL.Query().Get("minutes"))
	if err != nil || minutes <= 0 || minutes > 24*60 {
		minutes = 30
	}
	period := time.Duration(minutes) * time.Minute
	step := max(trafficStep, period/maxPoints).Round(time.Second)
	view := TrafficView{Step: int(step / time.Second), Services: []TrafficOf{}}
	latest, err := s.Releases.History(r.Context(), store.ReleaseFilter{Repository: repo.FullName(), Environment: r.PathValue("environment"), Limit: 100})
	if err != nil {
		s.failed(w, r, err)
		return
	}
	if len(latest) == 0 || s.Carrier == nil || s.Carrier.Proxy == nil {
		writeJSON(w, http.StatusOK, view)
		return
	}
	numbers := map[cd.ReleaseID]int64{}
	for _, one := range latest {
		numbers[one.ID] = one.Number
	}
	now := time.Now()
	for _, service := range latest[0].Plan.Services {
		charts, err := s.Carrier.Charts(r.Context(), latest[0].Plan, service.Name, now.Add(-period), now, step)
		if err != nil {
			s.failed(w, r, err)
			return
		}
		of := TrafficOf{Service: service.Name, Pools: []PoolTraffic{}}
		for _, c := range charts {
			id, _, _ := strings.Cut(c.Pool, "/")
			n, err := strconv.ParseInt(id, 10, 64)
			if err != nil {
				continue // what came to no pool
			}
			pool := PoolTraffic{Release: cd.ReleaseID(n), Number: numbers[cd.ReleaseID(n)], Points: []TrafficPoint{}}
			for _, p := range c.Points {
				point := TrafficPoint{At: p.At.Unix(), Requests: p.Rate}
				if p.Rate > 0 {
					errors, p50, p99 := 100*p.ErrorRate, p.P50, p.P99
					point.Errors, point.P50, point.P99 = &errors, &p50, &p99
				}
				pool.Points = append(pool.Points, point)
			}
			of.Pools = append(of.Pools, pool)
		}
		view.Services = append(view.Services, of)
	}
	writeJSON(w, http.StatusOK, view)
}

// releaseLogs is GET .../environments/{environment}/logs: what instances have written, as text.
func (s *Server) releaseLogs(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	query := r.URL.Query()
	found, err := s.logged(r, repo, query.Get("version"))
	if errors.Is(err, store.ErrNotFound) {
		refuse(w, http.StatusNotFound, "Nothing was released there, or not this version")
		return
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	if s.Carrier == nil {
		refuse(w, http.StatusConflict, "Another server has the instances")
		return
	}
	lines, err := strconv.Atoi(query.Get("lines"))
	if err != nil || lines < 0 || lines > maxLogLines {
		lines = 200
	}
	index, err := strconv.Atoi(query.Get("instance"))
	if err != nil || index < 0 {
		index = -1
	}
	var services []string
	if name := query.Get("service"); name != "" {
		services = append(services, name)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no")
	if err := s.Carrier.Logs(r.Context(), found.Release, services, index, lines, query.Get("follow") == "true", flushing{w, http.NewResponseController(w)}); err != nil {
		s.Log.Warn("logs of a release could not be read", "release", found.ID, "error", err)
	}
}

// logged is the release whose logs are asked for: of a number, or what is newest.
func (s *Server) logged(r *http.Request, repo store.Repository, number string) (store.Release, error) {
	f := store.ReleaseFilter{Repository: repo.FullName(), Environment: r.PathValue("environment"), Limit: 1}
	if number != "" {
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 1 {
			return store.Release{}, store.ErrNotFound
		}
		f.Number = n
	}
	found, err := s.Releases.History(r.Context(), f)
	if err == nil && len(found) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Release{}, err
	}
	return found[0], nil
}

// flushing sends what is written at once.
type flushing struct {
	w   io.Writer
	out *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.out.Flush()
	}
	return n, err
}
