package forge

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
)

const (
	// maxWants bounds what a fetch may send to say what it wants and has, bytes.
	maxWants = 32 << 20
	// maxServe bounds one fetch or push.
	maxServe = 2 * time.Hour
	// maxRest and restFor bound what is still taken of a request that is answered already, bytes and time.
	maxRest = 64 << 20
	restFor = 10 * time.Second
	// maxIdle is how long a client may neither send nor take anything.
	maxIdle = time.Minute
)

// GitRequest is what a request of git's smart HTTP protocol asks for.
type GitRequest struct {
	Repository string // OWNER/NAME, without .git
	Service    string // git-upload-pack to fetch, git-receive-pack to push
	Advertise  bool   // only what refs there are and what the server can
}

// Push reports whether the request is of a push, its first question included.
func (g GitRequest) Push() bool { return g.Service == "git-receive-pack" }

// ParseGitRequest tells git's requests from others: GET /OWNER/NAME[.git]/info/refs?service=S and POST
// /OWNER/NAME[.git]/S. The name is checked when the repository is opened.
func ParseGitRequest(r *http.Request) (GitRequest, bool) {
	path, ok := strings.CutPrefix(r.URL.Path, "/")
	if !ok {
		return GitRequest{}, false
	}
	g := GitRequest{Service: r.URL.Query().Get("service")}
	if g.Repository, g.Advertise = strings.CutSuffix(path, "/info/refs"); !g.Advertise {
		g.Repository, g.Service, _ = cutLast(path, "/")
	}
	g.Repository = strings.TrimSuffix(g.Repository, ".git")
	known := g.Service == "git-upload-pack" || g.Service == "git-receive-pack"
	asks := g.Advertise && r.Method == http.MethodGet || !g.Advertise && r.Method == http.MethodPost
	return g, known && asks && strings.Count(g.Repository, "/") == 1
}

// Visitor is who fetches or pushes. The caller knows them and has allowed them to read the repository.
type Visitor struct {
	Account
	// May says whether the visitor may make a change: nil, or the reason why not, which is shown. Without May the
	// visitor may fetch alone.
	May func(Change) error
}

// ServeGit answers a request of git. A push is stored, told of and then acknowledged, in this order; where telling fails
// the pusher is told that it is done later.
func (h *Hosted) ServeGit(w http.ResponseWriter, r *http.Request, asked GitRequest, by Visitor) {
	b, err := h.Open(asked.Repository)
	if err != nil {
		http.Error(w, "there is no repository "+asked.Repository, http.StatusNotFound)
		return
	}
	if asked.Push() && by.May == nil {
		http.Error(w, "you may read "+asked.Repository+", not push to it", http.StatusForbidden)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), maxServe)
	defer cancel()
	select {
	case h.git <- struct{}{}:
		defer func() { <-h.git }()
	case <-ctx.Done():
		return
	}
	w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	protocol := ""
	if p := r.Header.Get("Git-Protocol"); gitProtocol.MatchString(p) {
		protocol = p
	}
	c := newConversation(w, r)
	defer c.end()
	switch {
	case asked.Advertise:
		b.advertise(ctx, c, strings.TrimPrefix(asked.Service, "git-"), protocol)
	case asked.Push():
		b.receive(ctx, c, by, protocol)
	default:
		b.upload(ctx, c, protocol)
	}
}

var gitProtocol = regexp.MustCompile(`^[a-z0-9=:]{1,64}$`)

// advertise answers what refs there are. A client that speaks version 2 asks for them later.
func (b *Bare) advertise(ctx context.Context, c *conversation, service, protocol string) {
	c.w.Header().Set("Content-Type", "application/x-git-"+service+"-advertisement")
	if service == "receive-pack" || !strings.Contains(protocol, "version=2") {
		line := "# service=git-" + service + "\n"
		fmt.Fprintf(c, "%04x%s0000", len(line)+4, line)
	}
	cmd := command(ctx, b.dir, service, "--stateless-rpc", "--advertise-refs", ".")
	cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+protocol)
	cmd.Stdout = c
	_ = cmd.Run() // what is wrong git itself tells its client, in the stream
}

// upload answers a fetch.
func (b *Bare) upload(ctx context.Context, c *conversation, protocol string) {
	body, err := c.body(maxWants)
	if err != nil {
		http.Error(c.w, err.Error(), http.StatusBadRequest)
		return
	}
	c.w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
	cmd := command(ctx, b.dir, "upload-pack", "--stateless-rpc", ".")
	cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+protocol)
	cmd.Stdin, cmd.Stdout = body, c
	_ = cmd.Run() // as above
}

// conversation is a request whose ends are both bounded in time: each piece that is read or written gives the client
// another minute.
type conversation struct {
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
}

func newConversation(w http.ResponseWriter, r *http.Request) *conversation {
	c := &conversation{w: w, r: r, control: http.NewResponseController(w)}
	// git tells how far it is while the client still sends. Where the connection can not, it is told after.
	_ = c.control.EnableFullDuplex()
	return c
}

// end reads what git has left of the request, and takes back the deadlines, which would otherwise be those of the
// connection's next request. Left to net/http, the rest would be read behind the answer, which ends in a panic where both
// ways are open at once. A client that does not come to its end loses the connection.
func (c *conversation) end() {
	_ = c.control.SetReadDeadline(time.Now().Add(restFor))
	if _, err := io.CopyN(io.Discard, c.r.Body, maxRest); err == nil {
		_ = c.control.SetReadDeadline(time.Now())
		return
	}
	_ = c.control.SetReadDeadline(time.Time{})
	_ = c.control.SetWriteDeadline(time.Time{})
}

func (c *conversation) Read(p []byte) (int, error) {
	_ = c.control.SetReadDeadline(time.Now().Add(maxIdle)) // a recorder has no deadlines, a connection has
	return c.r.Body.Read(p)
}

func (c *conversation) Write(p []byte) (int, error) {
	_ = c.control.SetWriteDeadline(time.Now().Add(maxIdle))
	n, err := c.w.Write(p)
	if err == nil {
		err = c.control.Flush()
		if errors.Is(err, http.ErrNotSupported) {
			err = nil
		}
	}
	return n, err
}

// body is what the client sends, unpacked, and an error once there is more of it than the limit.
func (c *conversation) body(limit int64) (io.Reader, error) {
	body := io.Reader(c)
	switch c.r.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip", "x-gzip":
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("the request is not gzip, as it says: %w", err)
		}
		body = unpacked
	default:
		return nil, errors.New("only gzip is understood as Content-Encoding")
	}
	return &limited{r: body, left: limit}, nil
}

// limited reads up to a limit and fails behind it, where io.LimitReader would end as if all had come.
type limited struct {
	r    io.Reader
	left int64
}

var errTooLarge = errors.New("the request is larger than the server takes")

func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n - 1, errTooLarge
	}
	return n, err
}
