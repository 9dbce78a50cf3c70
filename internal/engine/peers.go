package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// Several servers may share a store, with no leader. Each has all runs that are not completed in memory and offers their
// jobs to the runners that ask it; the version of a run decides who was first. Two things are to be told among them: what
// the others have changed (follow: the records say it), and which leases are alive, for a runner may speak to another
// server than the one that gave it the lease (beat: each server writes which runners it has heard of).

// peers is what an engine knows of the servers that share its store.
type peers struct {
	id string // this one's

	mu     sync.Mutex
	known  map[string]peer
	read   time.Time          // when they were read last
	behind map[ci.RunID]int64 // runs to be looked at again, if they are older than the version
	wake   chan struct{}      // holds one: there are some
}

// peer is another server.
type peer struct {
	beats int64
	seen  time.Time // when the beats were first seen to be so many
}

func (p *peers) init() {
	p.id = rand.Text()
	p.known = map[string]peer{}
	p.behind = map[ci.RunID]int64{}
	p.wake = make(chan struct{}, 1)
}

// outdated says that the run in memory is not the one that is stored.
func (p *peers) outdated(id ci.RunID, version int64) {
	p.mu.Lock()
	p.behind[id] = max(p.behind[id], version)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// takeBehind gives the runs to be looked at again.
func (p *peers) takeBehind() map[ci.RunID]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.behind
	p.behind = map[ci.RunID]int64{}
	return taken
}

// silent reports whether a lease that this server has not heard of is to be declared lost by it: not while another that
// has told of it last is there, and not before the others have been heard.
func (p *peers) silent(teller string, now time.Time, period time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, there := p.known[teller]
	return !there && now.Sub(p.read) < period/2
}

// follow takes over what other servers change, until ctx ends.
func (e *Engine) follow(ctx context.Context, after int64) {
	for ctx.Err() == nil {
		news := e.store.Foreign()
		versions, last, err := e.store.Changes(ctx, after)
		for id, version := range versions {
			e.peers.outdated(id, version)
		}
		after = last
		for id, version := range e.peers.takeBehind() {
			if refreshErr := e.refresh(ctx, id, version); refreshErr != nil && !errors.Is(refreshErr, store.ErrNotFound) {
				e.peers.outdated(id, version)
				err = errors.Join(err, refreshErr)
			}
		}
		if err != nil && ctx.Err() == nil {
			e.opt.Log.Error("what other servers did could not be read, it is tried again", "error", err)
			pause(ctx, retryAfter)
			continue
		}
		select {
		case <-news:
		case <-e.peers.wake:
		case <-ctx.Done():
		}
	}
}

// refresh loads a run anew if it is older in memory than a version.
func (e *Engine) refresh(ctx context.Context, id ci.RunID, version int64) error {
	x, err := e.entry(ctx, id)
	if err != nil {
		return err
	}
	x.mu.Lock()
	old := x.run.Version < version
	if old {
		x.givenUp.Store(true)
	}
	last := x.last
	x.mu.Unlock()
	e.release(x)
	if !old {
		return nil
	}
	_ = last.wait(ctx) // what is under way is told before what is loaded after it; that it fails is to be expected
	e.forget(x)
	if x, err = e.entry(ctx, id); err == nil {
		e.release(x)
	}
	return err
}

// beat tells the others of this server, and hears of them, until ctx ends.
func (e *Engine) beat(ctx context.Context) {
	every := e.opt.LeaseFor / 6
	for ctx.Err() == nil {
		heard := e.desk.heard(e.opt.Now().Add(-e.opt.LeaseFor / 2))
		err := e.store.Beat(ctx, e.peers.id, e.opt.Name, heard)
		if err == nil {
			err = e.hear(ctx)
		}
		if err != nil && ctx.Err() == nil {
			e.opt.Log.Error("the other servers could not be told or heard, it is tried again", "error", err)
		}
		pause(ctx, every)
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), retryAfter)
	defer cancel()
	if err := e.leave(leaving); err != nil {
		e.opt.Log.Warn("the other servers will find out by themselves that this one has stopped", "error", err)
	}
}

// hear reads what the others have told.
func (e *Engine) hear(ctx context.Context) error {
	servers, err := e.store.Servers(ctx)
	if err != nil {
		return err
	}
	now := e.opt.Now()
	if e.peers.unheard(now, e.opt.LeaseFor) {
		// While nobody could be heard the leases went on: all get a whole period.
		e.desk.extend(now.Add(e.opt.LeaseFor))
	}
	for _, s := range servers {
		if s.ID == e.peers.id {
			continue
		}
		if e.peers.saw(s, now) {
			e.desk.told(s.ID, s.Heard, now.Add(e.opt.LeaseFor), now.Add(-e.opt.LeaseFor/2))
		}
	}
	for _, gone := range e.peers.gone(servers, now.Add(-e.opt.LeaseFor)) {
		removed, err := e.store.RemoveServer(ctx, gone)
		if err != nil {
			return err
		}
		if removed {
			e.opt.Log.Warn("another server is gone; what only it has heard of is lost", "server", gone.Name)
		}
	}
	return nil
}

// unheard says that the others are read now, and whether they could not be for so long that it is not known who is there.
func (p *peers) unheard(now time.Time, period time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	long := now.Sub(p.read) >= period/2
	p.read = now
	if long {
		for id, known := range p.known {
			known.seen = now
			p.known[id] = known
		}
	}
	return long
}

// saw notes a server and says whether it has beaten since it was seen last.
func (p *peers) saw(s store.Server, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.known[s.ID]
	if ok && known.beats == s.Beats {
		return false
	}
	p.known[s.ID] = peer{beats: s.Beats, seen: now}
	return true
}

// gone forgets the servers that are not on the list or have not beaten since a time, and gives the latter.
func (p *peers) gone(servers []store.Server, since time.Time) (out []store.Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	listed := map[string]bool{}
	for _, s := range servers {
		if known, ok := p.known[s.ID]; ok && known.seen.Before(since) {
			out = append(out, s)
			continue
		}
		listed[s.ID] = true
	}
	for id := range p.known {
		if !listed[id] {
			delete(p.known, id)
		}
	}
	return out
}

// leave takes this server off the list.
func (e *Engine) leave(ctx context.Context) error {
	servers, err := e.store.Servers(ctx)
	for _, s := range servers {
		if s.ID == e.peers.id {
			_, err = e.store.RemoveServer(ctx, s)
		}
	}
	return err
}

// pause waits a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
