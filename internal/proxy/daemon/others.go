package daemon

import (
	"cmp"
	"context"

	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy"
)

const (
	// pollOthers is how often those that drain are asked what they count.
	pollOthers = time.Second
	// lastWord is how long a process that has drained waits until its last counts are taken.
	lastWord = time.Minute
	// askTime bounds one question.
	askTime = 5 * time.Second
)

// others are the processes of the directory that have given their place up and finish what is under way: clients whose
// connections they keep are theirs until the next answer. So they hear of new tables, and are asked what they count and
// whether they still use a backend. Each has a socket of its own in the directory for that.
type others struct {
	dir string
	log *slog.Logger
	// asking has one place: for who asks what they count, or leaves that to the next process. The last counts of a process
	// are told once, and must not be lost between the two.
	asking chan struct{}

	mu   sync.Mutex
	live map[int]*other
	past map[poolName]proxy.PoolStats // what those that have ended counted

	// As one of them:
	server *http.Server
	asked  chan struct{} // closed when the last counts have been taken
	once   sync.Once
	final  bool
}

// other is one of them. What is counted of it is last less from.
type other struct {
	client     *http.Client
	from, last map[poolName]proxy.PoolStats
}

// counted is what a process leaves: its own counts, and those that it added to them.
type counted struct {
	Own  []proxy.PoolStats `json:"own"`
	Past []proxy.PoolStats `json:"past"`
	Live map[int]liveCount `json:"live"`
}

type liveCount struct {
	From []proxy.PoolStats `json:"from"`
	Last []proxy.PoolStats `json:"last"`
}

func newOthers(dir string, log *slog.Logger) *others {
	return &others{dir: dir, log: log, asking: make(chan struct{}, 1), live: map[int]*other{}, past: map[poolName]proxy.PoolStats{}, asked: make(chan struct{})}
}

func (o *others) socket(pid int) string {
	return filepath.Join(o.dir, fmt.Sprintf("drain-%d.sock", pid))
}

func (o *others) add(pid int) *other {
	one := &other{client: socketClient(o.socket(pid)), from: map[poolName]proxy.PoolStats{}}
	o.live[pid] = one
	return one
}

// leaveTo is what the next process has to know of counts, with this one's own. Then nobody asks any more, until resume.
func (o *others) leaveTo(own []proxy.PoolStats) counted {
	o.asking <- struct{}{}
	o.mu.Lock()
	defer o.mu.Unlock()
	c := counted{Own: own, Past: listOf(o.past), Live: map[int]liveCount{}}
	for pid, one := range o.live {
		c.Live[pid] = liveCount{listOf(one.from), listOf(one.last)}
	}
	return c
}

// resume undoes leaveTo.
func (o *others) resume() { <-o.asking }

// inherit takes over what process pid leaves.
func (o *others) inherit(pid int, c counted) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.past = byPool(c.Past)
	for pid, one := range c.Live {
		live := o.add(pid)
		live.from, live.last = byPool(one.From), byPool(one.Last)
	}
	o.add(pid).last = byPool(c.Own)
}

// find looks for processes that drain. What those that nobody told of have counted so far is not added, since it may have
// been by a process that was killed.
func (o *others) find() {
	paths, _ := filepath.Glob(filepath.Join(o.dir, drainSocks))
	for _, path := range paths {
		pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "drain-"), ".sock"))
		if err != nil || pid == os.Getpid() {
			continue
		}
		o.mu.Lock()
		if o.live[pid] == nil {
			o.add(pid).from = nil
		}
		o.mu.Unlock()
	}
}

// each asks all others at the same time.
func (o *others) each(ask func(pid int, one *other)) {
	o.mu.Lock()
	var group sync.WaitGroup
	for pid, one := range o.live {
		group.Go(func() { ask(pid, one) })
	}
	o.mu.Unlock()
	group.Wait()
}

// poll asks what they count, and forgets those that are gone.
func (o *others) poll(ctx context.Context) {
	select {
	case o.asking <- struct{}{}:
		defer func() { <-o.asking }()
	default:
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	o.each(func(pid int, one *other) {
		var answer drainStats
		err := call(ctx, one.client, http.MethodGet, "/stats", nil, &answer)
		o.mu.Lock()
		defer o.mu.Unlock()
		if err == nil {
			one.last = byPool(answer.Pools)
			if one.from == nil {
				one.from = one.last
			}
		}
		if answer.Final || isGone(err) {
			for name, s := range one.last {
				s.InFlight = 0
				o.past[name] = plus(o.past[name], s, one.from[name])
			}
			delete(o.live, pid)
			_ = os.Remove(o.socket(pid))
		}
	})
}

// isGone says whether nobody listens any more.
func isGone(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// set tells them the table. One that does not take it has its clients go on by the old one, until it ends.
func (o *others) set(ctx context.Context, t proxy.Table) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	o.each(func(pid int, one *other) {
		if err := call(ctx, one.client, http.MethodPut, "/table", t, nil); err != nil && !isGone(err) {
			o.log.Warn("a process that drains did not take the table", "process", pid, "table", t.Version, "error", err)
		}
	})
}

// drained waits until none of them has anything under way to an address.
func (o *others) drained(ctx context.Context, addr string) error {
	var mu sync.Mutex
	var failed error
	o.each(func(_ int, one *other) {
		if err := call(ctx, one.client, http.MethodPost, "/drained?addr="+url.QueryEscape(addr), nil, nil); err != nil && !ended(err) {
			mu.Lock()
			failed = cmp.Or(failed, err)
			mu.Unlock()
		}
	})
	return failed
}

// sum adds up what own and the others count. Of pools that none of those that run knows any more, nothing is kept.
func (o *others) sum(own []proxy.PoolStats) []proxy.PoolStats {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := byPool(own)
	for _, one := range o.live {
		for name, s := range one.last {
			all[name] = plus(all[name], s, one.from[name])
		}
	}
	for name, s := range o.past {
		if _, ok := all[name]; !ok {
			delete(o.past, name)
			continue
		}
		all[name] = plus(all[name], s, proxy.PoolStats{})
	}
	return listOf(all)
}

// pids are the processes that drain.
func (o *others) pids() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []int
	for pid := range o.live {
		out = append(out, pid)
	}
	return out
}

// stay opens this process' own socket: from now on it is one of the others.
func (o *others) stay(h http.Handler) error {
	l, err := listenSocket(o.socket(os.Getpid()))
	if err != nil {
		return err
	}
	o.server = &http.Server{Handler: h, ReadHeaderTimeout: askTime}
	go func() { _ = o.server.Serve(sameUser{l, o.log}) }()
	return nil
}

// withdraw undoes stay.
func (o *others) withdraw() {
	_ = o.server.Close()
	_ = os.Remove(o.socket(os.Getpid()))
}

// leave waits until somebody has taken the last counts, for a while, and closes the socket.
func (o *others) leave(ctx context.Context) {
	o.mu.Lock()
	o.final = true
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lastWord)
	defer cancel()
	select {
	case <-o.asked:
	case <-ctx.Done():
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	_ = o.server.Shutdown(ctx)
	_ = os.Remove(o.socket(os.Getpid()))
}

// drainStats is what a process that drains says of its counts; Final if they are the last.
type drainStats struct {
	Pools []proxy.PoolStats `json:"pools"`
	Final bool              `json:"final"`
}

// drainHandler answers for a process that has given its place up.
func (d *daemon) drainHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		d.others.mu.Lock()
		final := d.others.final
		d.others.mu.Unlock()
		answer(w, drainStats{d.proxy.Collect(), final})
		if final {
			d.others.once.Do(func() { close(d.others.asked) })
		}
	})
	mux.HandleFunc("PUT /table", func(w http.ResponseWriter, r *http.Request) {
		var t proxy.Table
		if !read(w, r, &t) {
			return
		}
		if err := d.route(t); err != nil {
			fail(w, err)
			return
		}
		answer(w, struct{}{})
	})
	mux.HandleFunc("POST /drained", func(w http.ResponseWriter, r *http.Request) {
		if err := d.proxy.Drained(r.Context(), r.FormValue("addr")); err != nil {
			fail(w, err)
			return
		}
		answer(w, struct{}{})
	})
	return mux
}

func byPool(list []proxy.PoolStats) map[poolName]proxy.PoolStats {
	m := make(map[poolName]proxy.PoolStats, len(list))
	for _, s := range list {
		m[poolName{s.Route, s.Pool}] = s
	}
	return m
}

func listOf(m map[poolName]proxy.PoolStats) []proxy.PoolStats {
	list := make([]proxy.PoolStats, 0, len(m))
	for _, s := range m {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b proxy.PoolStats) int {
		return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Pool, b.Pool))
	})
	return list
}

// plus is a and s together, less from.
func plus(a, s, from proxy.PoolStats) proxy.PoolStats {
	a.Route, a.Pool = s.Route, s.Pool
	for i := range a.Requests {
		a.Requests[i] += s.Requests[i] - from.Requests[i]
	}
	for i := range a.Latency {
		a.Latency[i] += s.Latency[i] - from.Latency[i]
	}
	a.Gone += s.Gone - from.Gone
	a.ConnectFailures += s.ConnectFailures - from.ConnectFailures
	a.Resets += s.Resets - from.Resets
	a.Retries += s.Retries - from.Retries
	a.Mirrored += s.Mirrored - from.Mirrored
	a.BytesIn += s.BytesIn - from.BytesIn
	a.BytesOut += s.BytesOut - from.BytesOut
	a.LatencySum += s.LatencySum - from.LatencySum
	a.InFlight += s.InFlight // what is under way is not a count
	return a
}
