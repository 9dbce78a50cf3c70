package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-ci/penstock/internal/runner"
)

func (m *team) registrationToken(ctx context.Context) (string, error) {
	text, err := m.ask(ctx, "POST", "/api/v3/repos/bench/bench/actions/runners/registration-token", "{}")
	if err != nil {
		return "", err
	}
	var grant struct{ Token string }
	err = json.Unmarshal(text, &grant)
	return grant.Token, err
}

// idleRunners has many runners wait for jobs that do not come, each on a connection of its own, and looks at what the server
// takes of the machine for them: for longer than they wait until they ask again.
func (b *bench) idleRunners(ctx context.Context, m *team) error {
	if _, err := m.ticks(); err != nil {
		return nil // not this system's way
	}
	grant, err := m.registrationToken(ctx)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer stop()
	many := b.size(1000, 20)
	var failed atomic.Pointer[error]
	for n := range many {
		joined, err := runner.Join(ctx, m.url, runner.Joining{Token: grant, Name: fmt.Sprint("idle-", n), Labels: []string{"elsewhere"}})
		if err != nil {
			return err
		}
		waiting.Go(func() {
			if _, err := runner.NewRemote(m.url, joined.Token).Lease(ctx, runner.Runner{}); ctx.Err() == nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	time.Sleep(2 * time.Second) // the last has asked
	before, err := m.ticks()
	if err != nil {
		return err
	}
	window := time.Duration(b.size(110, 1)) * time.Second // each asks twice, and is noted twice
	time.Sleep(window)
	after, err := m.ticks()
	if err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return fmt.Errorf("a runner does not wait: %w", *err)
	}
	share := float64(after-before) / window.Seconds()
	b.rows = append(b.rows, row{
		fmt.Sprintf("processor time of a server for %d idle runners", many), fmt.Sprintf("%.2f %% of a core", share), "", fmt.Sprintf("%.2f of the limit", share/2), "under 2 %", share < 2,
	})
	return nil
}
