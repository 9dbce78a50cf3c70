package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/ci"
)

// QueuePath is where a server has its queue for runners elsewhere.
const QueuePath = "/api/penstock/runner"

// What runner and server tell one another.
type (
	// Joining is how a runner joins: by a registration token. Own is what it is known by afterwards; it is made by Join, so that who
	// has had no answer may ask again.
	Joining struct {
		Token     string   `json:"token"`
		Own       string   `json:"own"`
		Name      string   `json:"name"`
		OS        string   `json:"os"`
		Arch      string   `json:"arch"`
		Labels    []string `json:"labels"`
		Ephemeral bool     `json:"ephemeral,omitempty"`
	}
	// Joined is the answer: the runner's own token.
	Joined struct {
		ID    int64  `json:"id"`
		Token string `json:"token"`
	}
	// Reporting and Finishing carry what Queue's methods take.
	Reporting struct {
		Lease  Lease     `json:"lease"`
		Report ci.Report `json:"report"`
	}
	Finishing struct {
		Lease  Lease     `json:"lease"`
		Result ci.Result `json:"result"`
	}
	// Renewed is what is wanted of a job.
	Renewed struct {
		Signal Signal `json:"signal"`
	}
	// Gap says that bytes of a log are missing, and how many there are.
	Gap struct {
		Size    int64  `json:"size"`
		Message string `json:"message"`
	}
)

const (
	// taskPatience is how long an answer to Lease may take: longer than a server holds the question. Renew is answered
	// sooner.
	taskPatience = 90 * time.Second
	// otherPatience is how long all else may take.
	otherPatience = 30 * time.Second
	// awayPatience is how long a server may be away until a log that it does not take ends the job.
	awayPatience = 5 * time.Minute
	// joinTries is how often a runner asks to join that gets no answer.
	joinTries = 3
	// minPart is the least of a log that is sent at once if there is as much, bytes.
	minPart = 16 << 10
	// maxTask bounds a task, bytes.
	maxTask = 64 << 20
)

var (
	// ErrRemoved says that the server does not know the runner any more: asking again is of no use.
	ErrRemoved = errors.New("the server does not know this runner (any more)")
	// ErrRefused says that the server will not take what it was told, however often.
	ErrRefused = errors.New("the server refuses it")
)

// final reports whether another try is of no use: the lease has ended, the runner is not known, or what is told is refused.
// All else passes: networks and servers come back.
func final(err error) bool {
	return errors.Is(err, ci.ErrStale) || errors.Is(err, ErrRemoved) || errors.Is(err, ErrRefused)
}

// Remote is the queue of a server elsewhere. It may be used by any number of goroutines.
type Remote struct {
	url    string // without a slash at its end
	token  string
	client *http.Client
}

// NewRemote makes the queue of the server at a URL for a runner with a token of Join.
func NewRemote(url, token string) *Remote {
	return &Remote{strings.TrimSuffix(url, "/"), token, &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 16, IdleConnTimeout: 2 * time.Minute, ForceAttemptHTTP2: true,
			// All requests share one connection in HTTP/2: that it is dead must be known before a lease runs out.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for this server
	}}
}

// Join makes a runner of this process at a server.
func Join(ctx context.Context, url string, in Joining) (Joined, error) {
	in.Own = auth.NewToken()
	var out Joined
	for tries, pause := 1, firstPause; ; tries, pause = tries+1, 2*pause {
		status, err := NewRemote(url, "").call(ctx, "/join", otherPatience, in, &out)
		if err == nil {
			return out, nil
		}
		if status >= 300 && status < 500 || tries == joinTries || ctx.Err() != nil {
			return out, fmt.Errorf("join %s: %w", url, err)
		}
		sleep(ctx, about(pause))
	}
}

// Leave takes the runner off the server's list.
func (q *Remote) Leave(ctx context.Context) error {
	_, err := q.call(ctx, "/leave", otherPatience, struct{}{}, nil)
	return err
}

// Lease implements Queue. ErrRemoved is an error for good.
func (q *Remote) Lease(ctx context.Context, _ Runner) (*ci.Task, error) {
	for {
		var t ci.Task
		status, err := q.post(ctx, "/lease", taskPatience, "", nil, &t)
		if err != nil {
			return nil, fmt.Errorf("lease: %w", err)
		}
		if status != http.StatusNoContent {
			return &t, nil
		}
	}
}

// Renew implements Queue.
func (q *Remote) Renew(ctx context.Context, l Lease) (Signal, error) {
	var out Renewed
	_, err := q.call(ctx, "/renew", taskPatience, l, &out)
	return out.Signal, err
}

// Report implements Queue.
func (q *Remote) Report(ctx context.Context, l Lease, r ci.Report) error {
	_, err := q.call(ctx, "/report", otherPatience, Reporting{l, r}, nil)
	return err
}

// Finish implements Queue. It may be called again where an answer was lost: a result that was taken is taken again.
func (q *Remote) Finish(ctx context.Context, l Lease, res ci.Result) error {
	_, err := q.call(ctx, "/finish", otherPatience, Finishing{l, res}, nil)
	return err
}

// Append implements Queue. While the server is away it tries again, for longer than a server takes to start: what a job has
// written must not be the reason that it fails. On a bad line it sends less at a time.
func (q *Remote) Append(ctx context.Context, l Lease, offset int64, p []byte) error {
	size, pause, until := len(p), firstPause, time.Now().Add(awayPatience)
	for len(p) > 0 {
		n := min(size, len(p))
		err := q.appendPart(ctx, l, offset, p[:n])
		switch {
		case err == nil:
			offset, p = offset+int64(n), p[n:]
			pause, until = firstPause, time.Now().Add(awayPatience)
		case final(err) || ctx.Err() != nil || time.Now().After(until):
			return err
		default:
			size = max(n/2, minPart)
			sleep(ctx, about(pause))
			pause = min(2*pause, lastPause)
		}
	}
	return nil
}

func (q *Remote) appendPart(ctx context.Context, l Lease, offset int64, p []byte) error {
	query := url.Values{"run": {strconv.FormatInt(int64(l.Run), 10)}, "job": {string(l.Job)}, "lease": {string(l.ID)}, "offset": {strconv.FormatInt(offset, 10)}}
	_, err := q.post(ctx, "/log?"+query.Encode(), otherPatience, "application/octet-stream", p, nil)
	return err
}

func (q *Remote) call(ctx context.Context, path string, patience time.Duration, in, out any) (status int, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return 0, err
	}
	return q.post(ctx, path, patience, "application/json", body, out)
}

func (q *Remote) post(ctx context.Context, path string, patience time.Duration, kind string, body []byte, out any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.url+QueuePath+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if q.token != "" {
		req.Header.Set("Authorization", "Bearer "+q.token)
	}
	res, err := q.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxTask+1))
	switch {
	case err != nil:
		return 0, err
	case len(text) > maxTask:
		return 0, fmt.Errorf("the server's answer has more than %d bytes", maxTask)
	case res.StatusCode >= 300:
		return res.StatusCode, q.fault(path, res, text)
	case out == nil || len(text) == 0:
		return res.StatusCode, nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return res.StatusCode, fmt.Errorf("read the server's answer: %w", err)
	}
	return res.StatusCode, nil
}

// fault is what an answer means that is none of success.
func (q *Remote) fault(path string, res *http.Response, text []byte) error {
	err := fmt.Errorf("%s: %s", res.Status, said(text))
	switch code := res.StatusCode; {
	case code == http.StatusConflict && path != "/join":
		return ci.ErrStale
	case code == http.StatusUnauthorized && q.token != "":
		return fmt.Errorf("%w: %s", ErrRemoved, said(text))
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests:
		return err
	case code < 400 && res.Header.Get("Location") != "":
		return fmt.Errorf("%w: it is elsewhere, at %s", ErrRefused, res.Header.Get("Location"))
	case path == "/join":
		return err
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

// said is the message of an error's body.
func said(text []byte) string {
	var body struct{ Message string }
	if json.Unmarshal(text, &body) != nil || body.Message == "" {
		return "no reason is given"
	}
	return body.Message
}
