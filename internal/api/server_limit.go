package api

import (
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How much one user, or job, may ask: far more than pages and clients do, and less than keeps a server from serving others.
// Who shows tokens that are none may try again seldom.
const (
	userRate, userBurst         = 100, 2000 // requests a second, and at once
	strangerRate, strangerBurst = 1, 30
	// maxLimited bounds how many are remembered.
	maxLimited = 10_000
)

// limits keep everyone to their share.
type limits struct {
	mu sync.Mutex
	of map[string]*rate.Limiter
}

// allow says whether one more request of somebody is in order, and else how long to wait.
func (l *limits) allow(who string, perSecond rate.Limit, burst int, now time.Time) (ok bool, after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.of[who]
	if limiter == nil {
		if len(l.of) >= maxLimited {
			clear(l.of) // nobody is kept waiting for others
		}
		if l.of == nil {
			l.of = map[string]*rate.Limiter{}
		}
		limiter = rate.NewLimiter(perSecond, burst)
		l.of[who] = limiter
	}
	r := limiter.ReserveN(now, 1)
	if after = r.DelayFrom(now); after > 0 {
		r.CancelAt(now)
		return false, after
	}
	return true, 0
}

// within answers who asks too much; false then.
func (s *Server) within(w http.ResponseWriter, r *http.Request, v visitor) bool {
	ok, after := true, time.Duration(0)
	switch {
	case v.user != nil:
		ok, after = s.limits.allow("user "+v.user.Login, userRate, userBurst, time.Now())
	case v.session != nil:
		ok, after = s.limits.allow("job "+v.session.token, userRate, userBurst, time.Now())
	case tokenOf(r) != "":
		return s.strangerWithin(w, r)
	}
	return s.notTooMuch(w, ok, after)
}

// strangerWithin answers who shows too many tokens that are none; false then.
func (s *Server) strangerWithin(w http.ResponseWriter, r *http.Request) bool {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	ok, after := s.limits.allow("stranger "+host, strangerRate, strangerBurst, time.Now())
	return s.notTooMuch(w, ok, after)
}

func (s *Server) notTooMuch(w http.ResponseWriter, ok bool, after time.Duration) bool {
	if !ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(after/time.Second)+1))
		refuse(w, http.StatusTooManyRequests, "You have exceeded a rate limit: try again after a while")
	}
	return ok
}
