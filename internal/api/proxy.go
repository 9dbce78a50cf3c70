package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/job"
)

// hostHeader says where the links of an answer are to lead. Proxies between know nothing of it, and leave it alone.
const hostHeader = "X-Penstock-Host"

// Proxy offers a server elsewhere to the jobs of a runner: what they ask their own loopback for is asked there, by their
// own tokens.
type Proxy struct {
	target *url.URL
}

// NewProxy makes one to the server at a URL.
func NewProxy(target *url.URL) *Proxy { return &Proxy{target} }

// Serve implements job.Services.
func (p *Proxy) Serve(l net.Listener, t *ci.Task) (job.ServiceAddress, func() []string) {
	s := newSession(t)
	s.token = t.Token
	server := NewHTTPServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = p.target.Scheme, p.target.Host
			r.Out.Host = p.target.Host
			r.Out.Header.Set(hostHeader, r.In.Host) // the answers' links lead back here: the machine may reach nothing else
		},
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				slog.Warn("the server could not be asked for a job", "path", r.URL.Path, "error", err)
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	})
	go func() { _ = server.Serve(l) }() // until it is closed
	return s.address("http://"+l.Addr().String(), true), func() []string {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		return nil
	}
}
