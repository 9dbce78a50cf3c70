package api

import (
	"context"
	"errors"
	"fmt"
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
			next, err := c.Next(time.Now())
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
// ran, a schedule runs once for them.
func (s *Server) keepTime(ctx context.Context) {
	for ctx.Err() == nil {
		sleep := lookAgain
		due, err := s.Store.Schedules(ctx, ticksAtOnce)
		if err != nil && ctx.Err() == nil {
			s.Log.Error("the schedules could not be read", "error", err)
		}
		for _, c := range due {
			if left := time.Until(c.Next); left > 0 {
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

// tick moves a schedule on and begins its run, unless another server has done so.
func (s *Server) tick(ctx context.Context, c store.Schedule) error {
	next, err := workflow.Schedule{Cron: c.Cron, Timezone: c.Zone}.Next(time.Now())
	if err != nil {
		return err
	}
	if next.IsZero() {
		next = time.Now().AddDate(100, 0, 0)
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
