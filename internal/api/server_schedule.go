package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/store"
	"github.com/penstock-ci/penstock/internal/workflow"
)

const (
	// maxSchedules bounds those of a repository.
	maxSchedules = 100
	// ticksAtOnce is how many due schedules are looked at together.
	ticksAtOnce = 100
	// lookAgain is how long the clock sleeps at most: another server may have changed the schedules, or the time of this
	// machine may have been set.
	lookAgain = time.Minute
	// clocksDiffer is by how much the clocks of servers that share a store may.
	clocksDiffer = 5 * time.Minute
)

// setSchedules takes over the schedules of the default branch. What is wrong with one is told.
func (s *Server) setSchedules(ctx context.Context, bare *forge.Bare, repo store.Repository, sha string) (notes []string, err error) {
	var all []*workflow.Workflow
	if !(forge.Change{New: sha}).Deleted() {
		if all, err = s.workflows(ctx, bare, sha); err != nil {
			return nil, err
		}
	}
	var schedules []store.Schedule
	for _, w := range all {
		t := w.On.Find("schedule")
		if t == nil {
			continue
		}
		for _, c := range t.Schedules {
			next, err := c.Next(s.Now())
			if err != nil {
				notes = append(notes, fmt.Sprintf("%s (Line: %d): %v", w.Path, c.Line, err))
				continue
			}
			if next.IsZero() {
				notes = append(notes, fmt.Sprintf("%s (Line: %d): the schedule '%s' never comes", w.Path, c.Line, c.Cron))
				continue
			}
			schedules = append(schedules, store.Schedule{Workflow: w.Path, Cron: c.Cron, Zone: c.Timezone, Next: next})
		}
	}
	if len(schedules) > maxSchedules {
		notes = append(notes, fmt.Sprintf("only the first %d schedules of %d are kept", maxSchedules, len(schedules)))
		schedules = schedules[:maxSchedules]
	}
	if err := s.Store.SetSchedules(ctx, repo.ID, schedules); err != nil {
		return nil, err
	}
	select {
	case s.clock <- struct{}{}:
	default:
	}
	return notes, nil
}

// keepTime begins the runs of schedules when they are due, until ctx ends. However many ticks were missed while no server
// ran, or while the clock was set forward, a schedule runs once for them. If it was set back, schedules go by it from then on.
func (s *Server) keepTime(ctx context.Context) {
	var looked time.Time
	for ctx.Err() == nil {
		sleep := lookAgain
		if now := s.Now().Round(0); looked.IsZero() || now.Before(looked) {
			if err := s.turnBack(ctx, now); err == nil {
				looked = now
			} else if ctx.Err() == nil {
				s.Log.Error("the schedules could not be set to the time", "error", err)
			}
		} else {
			looked = now
		}
		due, err := s.Store.Schedules(ctx, ticksAtOnce)
		if err != nil && ctx.Err() == nil {
			s.Log.Error("the schedules could not be read", "error", err)
		}
		for _, c := range due {
			if left := c.Next.Sub(s.Now().Round(0)); left > 0 {
				sleep = min(sleep, left)
				break
			}
			if err := s.tick(ctx, c); err != nil && ctx.Err() == nil {
				s.Log.Error("a schedule could not be run", "workflow", c.Workflow, "cron", c.Cron, "error", err)
			}
			sleep = 0
		}
		timer := time.NewTimer(sleep)
		select {
		case <-timer.C:
		case <-s.clock:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// turnBack has schedules wait for their next ticks after a time, those that wait for later ones: the clock was ahead when they
// ticked last.
func (s *Server) turnBack(ctx context.Context, now time.Time) error {
	all, err := s.Store.Schedules(ctx, math.MaxInt32)
	if err != nil {
		return err
	}
	for _, c := range all {
		cron := workflow.Schedule{Cron: c.Cron, Timezone: c.Zone}
		later, err := cron.Next(now.Add(clocksDiffer))
		if err != nil || later.IsZero() || !later.Before(c.Next) {
			continue // it is what it should be
		}
		next, err := cron.Next(now)
		if err != nil {
			return err
		}
		if err := s.Store.Tick(ctx, c, next); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// tick moves a schedule on and begins its run, unless another server has done so.
func (s *Server) tick(ctx context.Context, c store.Schedule) error {
	next, err := workflow.Schedule{Cron: c.Cron, Timezone: c.Zone}.Next(s.Now())
	if err != nil {
		return err
	}
	if next.IsZero() {
		next = s.Now().AddDate(100, 0, 0)
	}
	if err := s.Store.Tick(ctx, c, next); errors.Is(err, store.ErrConflict) {
		return nil
	} else if err != nil {
		return err
	}
	repo, err := s.Store.Repository(ctx, c.Repository)
	if err != nil {
		return err
	}
	bare, err := s.hosted.Open(repo.FullName())
	if err != nil {
		return err
	}
	ev, err := bare.Event(ctx, s.scene(repo, forge.Account{Login: repo.Owner}), "schedule", map[string]any{"schedule": c.Cron, "workflow": c.Workflow})
	if err != nil {
		return err
	}
	tree, err := bare.Tree(ctx, ev.SHA)
	if err != nil {
		return err
	}
	defer tree.Close()
	f, err := tree.Read(c.Workflow)
	if err != nil {
		return err
	}
	start, err := s.start(ctx, repo, tree, ev)
	if err != nil {
		return err
	}
	note, err := s.triggerOne(ctx, repo, start, f)
	if err == nil && note != "" {
		s.Log.Info("a schedule was due", "repository", repo.FullName(), "run", note)
	}
	return err
}
