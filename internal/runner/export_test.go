package runner

import "net/http"

// SetTransport lets the client reach a server that only the test knows the way to.
func (q *Remote) SetTransport(t http.RoundTripper) { q.client.Transport = t }
