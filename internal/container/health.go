package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// Docker's defaults for health checks.
const (
	defaultInterval = 30 * time.Second
	defaultTimeout  = 30 * time.Second
	defaultRetries  = 3
)

// How often a container that is starting is asked: more often than Docker does, whose first question comes after a whole
// interval, but never so often that the questions take more than a small part of the time. What the interval and the
// retries say is when to give up.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
	pausePart  = 25 // of the time that it has taken so far
)

// tellEvery is how often who waits is told why.
const tellEvery = 5 * time.Second

// ErrUnhealthy is wrapped by Ready's error when the container's health check failed for too long.
var ErrUnhealthy = errors.New("the container is unhealthy")

// health is the check that holds: the options' over the image's.
func (c *Container) health() *Health {
	h := Health{Interval: defaultInterval, Timeout: defaultTimeout, Retries: defaultRetries}
	if of := c.image.Config.Healthcheck; of != nil {
		h.Test = of.Test
		h.Interval, h.Timeout = or(of.Interval, h.Interval), or(of.Timeout, h.Timeout)
		h.StartPeriod, h.Retries = of.StartPeriod, or(of.Retries, h.Retries)
	}
	if o := c.o.Health; o != nil {
		if len(o.Test) > 0 {
			h.Test = o.Test
		}
		h.Interval, h.Timeout = or(o.Interval, h.Interval), or(o.Timeout, h.Timeout)
		h.StartPeriod, h.Retries = or(o.StartPeriod, h.StartPeriod), or(o.Retries, h.Retries)
	}
	return &h
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// probe is the command that asks; nil asks nothing.
func (h *Health) probe(shell []string) []string {
	if len(h.Test) == 0 {
		return nil
	}
	switch h.Test[0] {
	case "NONE":
		return nil
	case "CMD":
		return h.Test[1:]
	case "CMD-SHELL":
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(append([]string{}, shell...), strings.Join(h.Test[1:], " "))
	}
	return h.Test
}

// Ready waits until the started container is healthy. Without a health check it is at once. waiting is told now and then
// why it waits: what the check last said, for how long it has been and until when it will be. The error wraps
// ErrUnhealthy, or says that the process has ended.
func (c *Container) Ready(ctx context.Context, waiting func(why string, since, until time.Duration)) error {
	h := c.health()
	probe := h.probe(c.image.Config.Shell)
	if probe == nil {
		return nil
	}
	limit := h.StartPeriod + time.Duration(h.Retries)*h.Interval
	said, failures := "", 0
	for told := time.Duration(0); ; {
		why, err := c.ask(ctx, h, probe)
		if err != nil {
			return err
		}
		if why == "" {
			return nil
		}
		failures++
		since := time.Since(c.began)
		if since > limit && failures >= h.Retries {
			return fmt.Errorf("%w: its check (%s) failed for %s: %s", ErrUnhealthy, strings.Join(h.Test[1:], " "), since.Round(time.Second), why)
		}
		if why != said || since-told > tellEvery {
			waiting(why, since, limit)
			said, told = why, since
		}
		pause := min(max(firstPause, since/pausePart), lastPause, h.Interval)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.done:
			return c.ended()
		case <-time.After(pause):
		}
	}
}

// ended says that the process is no more.
func (c *Container) ended() error {
	if c.err != nil {
		return fmt.Errorf("its process has ended: %w", c.err)
	}
	return errors.New("its process has ended")
}

// maxAnswer bounds what is kept of what a health check writes, bytes.
const maxAnswer = 4096

// ask runs the check once. why is empty if the container is well.
func (c *Container) ask(ctx context.Context, h *Health, probe []string) (why string, err error) {
	asking, stop := context.WithTimeout(ctx, h.Timeout)
	defer stop()
	out := &tail{max: maxAnswer}
	failed := c.Exec(asking, sandbox.Command{Args: probe, Stdout: out, Stderr: out, Stop: &sandbox.Ladder{}})
	select {
	case <-c.done:
		return "", c.ended()
	default:
	}
	var exit *sandbox.ExitError
	text, _ := out.text()
	answer := string(bytes.TrimSpace(text))
	if i := strings.LastIndexByte(answer, '\n'); i >= 0 {
		answer = answer[i+1:]
	}
	switch {
	case failed == nil:
		return "", nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case asking.Err() != nil:
		return fmt.Sprintf("no answer within %s", h.Timeout), nil
	case errors.As(failed, &exit) && answer == "":
		return failed.Error(), nil
	case errors.As(failed, &exit):
		return answer, nil
	}
	return failed.Error(), nil
}
