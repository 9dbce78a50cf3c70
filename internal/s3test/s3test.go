// Package s3test starts a real S3-compatible server, versitygw, which scripts/test-deps installs, for tests.
package s3test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The credentials of every server.
const (
	AccessKey = "penstock-test"
	SecretKey = "penstock-test-secret"
)

// Server keeps objects in a directory.
type Server struct {
	// URL names a bucket that is there, for blob.OpenBucket.
	URL string
	// Endpoint is where the server is.
	Endpoint string

	dir     string
	address string
	process *exec.Cmd
}

// New starts a server that ends with the test, and sets the credentials in the environment of the test.
func New(t testing.TB) *Server {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", SecretKey)
	s, err := In(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// In starts a server that keeps everything in a directory.
func In(dir string) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, address: l.Addr().String()}
	l.Close()
	s.Endpoint = "http://" + s.address
	s.URL = "s3://penstock/blobs?endpoint=" + s.Endpoint
	if err := os.MkdirAll(filepath.Join(s.dir, "objects", "penstock"), 0o700); err != nil {
		return nil, err
	}
	return s, s.Start()
}

// Start starts the server, or starts it again, and waits until it answers.
func (s *Server) Start() error {
	s.process = exec.Command("versitygw", "--quiet", "--access", AccessKey, "--secret", SecretKey, "--port", s.address, "--health", "/health", "posix", filepath.Join(s.dir, "objects"))
	s.process.Dir = s.dir
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		return fmt.Errorf("%w: scripts/test-deps installs it", err)
	}
	for deadline := time.Now().Add(30 * time.Second); !s.answers(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Kill()
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("versitygw does not come up:\n%s", text)
		}
	}
	return nil
}

func (s *Server) answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", s.Endpoint+"/health", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// Kill ends the server at once, as the end of its machine does. What it has stored stays.
func (s *Server) Kill() {
	if s.process != nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
		s.process = nil
	}
}
