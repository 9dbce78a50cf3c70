// Package pgtest gives tests a real PostgreSQL, of the binaries that Debian installs. Only tests import it.
package pgtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Server is a PostgreSQL server on a Unix socket in a directory of its own. It writes without waiting for the disk: it
// survives Crash, not the end of the machine. It ends with the process that started it, however that ends.
type Server struct {
	// Dir is where its socket is.
	Dir string

	bin       string
	as        *syscall.Credential
	databases atomic.Int64
	command   *exec.Cmd
	stdin     io.Closer // keeps it running
}

// New makes a server and starts it. Close removes it.
func New() (*Server, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return nil, errors.New("no PostgreSQL in /usr/lib/postgresql: scripts/test-deps installs it")
	}
	dir, err := os.MkdirTemp("", "pg") // short: the path of a socket has at most 107 bytes
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, bin: filepath.Dir(found[len(found)-1])}
	if err := s.initialize(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) initialize() error {
	if os.Getuid() == 0 { // PostgreSQL refuses to be root
		var err error
		if s.as, err = ordinary(); err != nil {
			return err
		}
		if err := os.Chown(s.Dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
			return err
		}
	}
	out, err := s.tool("initdb", "--pgdata", s.data(), "--username", "postgres", "--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return s.Start()
}

// ordinary is who runs PostgreSQL in place of root.
func ordinary() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func (s *Server) data() string { return filepath.Join(s.Dir, "data") }

func (s *Server) tool(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

// Start starts the server after New, Stop or Crash and waits until it takes connections.
func (s *Server) Start() error {
	const untilStdinEnds = `"$@" & cat >/dev/null; kill -QUIT $!; wait`
	cmd := exec.Command("sh", "-c", untilStdinEnds, "sh", filepath.Join(s.bin, "postgres"), "-D", s.data(), "-k", s.Dir,
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=60")
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.command, s.stdin = cmd, stdin
	var said bytes.Buffer
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.Contains(lines.Text(), "ready to accept connections") {
			go io.Copy(io.Discard, stderr)
			return nil
		}
	}
	return errors.Join(fmt.Errorf("PostgreSQL does not start:\n%s", said.Bytes()), s.end())
}

// Stop ends the server as its administrator does: connections are told.
func (s *Server) Stop() error { return s.stop("fast") }

// Crash ends the server at once; it recovers at the next Start.
func (s *Server) Crash() error { return s.stop("immediate") }

func (s *Server) stop(mode string) error {
	if s.command == nil {
		return nil
	}
	out, err := s.tool("pg_ctl", "stop", "--pgdata", s.data(), "--mode", mode, "--wait").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("pg_ctl: %w\n%s", err, out)
	}
	return errors.Join(err, s.end())
}

func (s *Server) end() error {
	err := s.stdin.Close()
	s.command.Wait() // how it ended says nothing
	s.command = nil
	return err
}

// Close ends the server and removes it.
func (s *Server) Close() error {
	err := s.Crash()
	return errors.Join(err, os.RemoveAll(s.Dir))
}

// URL is the address of a database.
func (s *Server) URL(database string) string {
	return "postgres://postgres@/" + database + "?host=" + url.QueryEscape(s.Dir)
}

// Database makes an empty database and gives its URL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", s.databases.Add(1))
	s.Exec(t, "postgres", "CREATE DATABASE "+name)
	return s.URL(name)
}

// Exec executes one statement in a database as its administrator.
func (s *Server) Exec(t testing.TB, database, statement string) {
	t.Helper()
	ctx := context.Background() // t.Context has ended when cleanups run
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatal(err)
	}
}
