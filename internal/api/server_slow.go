package api

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	// A body may pause for bodyGrace in all, and for the time that its bytes take at slowestBody bytes a second. What the
	// server itself needs between two reads does not count.
	bodyGrace   = 30 * time.Second
	slowestBody = 4 << 10
	// slowReader is how long a client may take for writePiece bytes of an answer.
	slowReader = 30 * time.Second
	writePiece = 256 << 10
)

// NewHTTPServer is a server for whoever may reach it: the head of a request must come soon and is small, and a connection on which
// nothing is asked ends.
func NewHTTPServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
}

// hurried gives a request and its answer ends that a client can not hold open by sending or reading next to nothing.
func hurried(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Time{}) // that of the connection's request before
	if r.Body != nil && r.Body != http.NoBody {
		in := *r
		in.Body = &hurriedBody{ReadCloser: r.Body, control: control}
		_ = control.SetReadDeadline(time.Now().Add(bodyGrace)) // for a body that is never read here: net/http reads it at the end
		r = &in
	}
	return &hurriedWriter{w, control}, r
}

// hurriedBody is a body that must come.
type hurriedBody struct {
	io.ReadCloser
	control *http.ResponseController
	waited  time.Duration
	got     int64
}

func (b *hurriedBody) Read(p []byte) (int, error) {
	began := time.Now()
	left := bodyGrace + time.Duration(b.got)*time.Second/slowestBody - b.waited
	if left <= 0 {
		return 0, fmt.Errorf("the body comes too slowly: %w", os.ErrDeadlineExceeded)
	}
	_ = b.control.SetReadDeadline(began.Add(left)) // a recorder has no deadlines, a connection has
	n, err := b.ReadCloser.Read(p)
	b.got += int64(n)
	b.waited += time.Since(began)
	if err == io.EOF {
		_ = b.control.SetReadDeadline(time.Time{}) // or the request would end while it is answered
	}
	return n, err
}

// hurriedWriter is an answer that must be read.
type hurriedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Unwrap lets http.ResponseController reach what is inside.
func (w *hurriedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *hurriedWriter) Write(p []byte) (n int, err error) {
	for {
		piece := p[n:min(len(p), n+writePiece)]
		_ = w.control.SetWriteDeadline(time.Now().Add(slowReader))
		m, err := w.ResponseWriter.Write(piece)
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// ReadFrom lets files go out without a copy where the connection can do that.
func (w *hurriedWriter) ReadFrom(r io.Reader) (n int64, err error) {
	for {
		_ = w.control.SetWriteDeadline(time.Now().Add(slowReader))
		m, err := io.Copy(w.ResponseWriter, io.LimitReader(r, writePiece))
		if n += m; err != nil || m < writePiece {
			return n, err
		}
	}
}
