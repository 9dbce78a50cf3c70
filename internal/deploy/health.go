package deploy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// What holds where a service says nothing of its health.
const (
	defaultInterval = time.Second
	defaultTimeout  = 5 * time.Second
	defaultRetries  = 3
)

// How often an instance that starts is asked: first often, so that nobody waits for a question, then ever more seldom, so
// that the questions take no more than a small part of the time. The interval is the longest pause.
const (
	firstAsk = 10 * time.Millisecond
	askPart  = 25 // of the time that it has taken so far
)

// withDefaults completes a health check.
func withDefaults(h cd.Health) cd.Health {
	if h.Interval <= 0 {
		h.Interval = defaultInterval
	}
	if h.Timeout <= 0 {
		h.Timeout = defaultTimeout
	}
	if h.Retries <= 0 {
		h.Retries = defaultRetries
	}
	return h
}

// checker asks one instance after its health.
type checker struct {
	health cd.Health
	dial   func(ctx context.Context) (net.Conn, error)
}

// errClosed says that nothing listens, or that what does is not to be reached.
type errClosed struct{ cause error }

func (e errClosed) Error() string { return "nothing listens: " + e.cause.Error() }
func (e errClosed) Unwrap() error { return e.cause }

// ask asks once. The error is for people.
func (c *checker) ask(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, c.health.Timeout)
	defer cancel()
	if c.health.Path == "" {
		conn, err := c.dial(asking)
		if err != nil {
			return errClosed{err}
		}
		return conn.Close()
	}
	err := c.get(asking)
	if err != nil && asking.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("GET %s gave no answer within %s", c.health.Path, c.health.Timeout)
	}
	return err
}

// steady is how many intervals a program without a port has to run until it counts as healthy.
const steady = 3

// userAgent is how health checks name themselves, so that a program may leave them out of its log.
const userAgent = "penstock-health"

// maxAnswer bounds what is read of an answer, bytes.
const maxAnswer = 16 << 10

func (c *checker) get(ctx context.Context) error {
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := c.dial(ctx)
				if err != nil {
					return nil, errClosed{err}
				}
				return conn, nil
			},
			DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/"+strings.TrimPrefix(c.health.Path, "/"), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := client.Do(req)
	var closed errClosed
	if errors.As(err, &closed) {
		return closed
	}
	if err != nil {
		return fmt.Errorf("GET %s: %w", c.health.Path, cause(err))
	}
	defer resp.Body.Close()
	return wellAnswered(resp, c.health.Path)
}

// cause is an error of an HTTP client without addresses: the same each time.
func cause(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	var by *net.OpError
	if errors.As(err, &by) {
		err = by.Err
	}
	return err
}

// wellAnswered says what is wrong with an answer; 2xx and 3xx are well.
func wellAnswered(resp *http.Response, what string) error {
	if resp.StatusCode >= 200 && resp.StatusCode < 400 {
		return nil
	}
	return answered(resp, what)
}

// answered says what came instead.
func answered(resp *http.Response, what string) error {
	line, _ := bufio.NewReader(io.LimitReader(resp.Body, maxAnswer)).ReadString('\n')
	text := fmt.Sprintf("GET %s answered %d", what, resp.StatusCode)
	if line = clip(strings.TrimSpace(strings.ToValidUTF8(line, "?")), 300); line != "" {
		text += ": " + line
	}
	return errors.New(text)
}

// patient is what is known of the health of one start of an instance.
type patient struct {
	health cd.Health
	began  time.Time // of asking
	state  cd.State  // Starting, Healthy, Ill
	bad    int       // answers in a row
	asked  int
	well   bool      // it has been healthy
	ill    time.Time // since when it is
}

// hear takes an answer in.
func (p *patient) hear(answer error, now time.Time) {
	p.asked++
	if answer == nil {
		p.state, p.bad, p.well = cd.Healthy, 0, true
		return
	}
	p.bad++
	switch p.state {
	case cd.Starting:
		if now.Sub(p.began) >= time.Duration(p.health.Retries)*p.health.Interval {
			p.state, p.ill = cd.Ill, now
		}
	case cd.Healthy:
		if p.bad >= p.health.Retries {
			p.state, p.ill = cd.Ill, now
		}
	}
}

// leastIll is for how long at least what was well is ill before it is started again.
const leastIll = 5 * time.Second

// hopeless reports whether it was well and has been ill for so long that only a new start may help.
func (p *patient) hopeless(now time.Time) bool {
	return p.state == cd.Ill && p.well && now.Sub(p.ill) >= max(time.Duration(p.health.Retries)*p.health.Interval, leastIll)
}

// pause is how long to wait before asking again.
func (p *patient) pause(now time.Time) time.Duration {
	if p.state != cd.Starting {
		return p.health.Interval
	}
	return min(max(firstAsk, now.Sub(p.began)/askPart), p.health.Interval)
}
