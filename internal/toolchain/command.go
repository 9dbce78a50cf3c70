package toolchain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// command runs the client of a package registry on this host, in a directory of its own, and gives what it writes.
func (s *Source) command(ctx context.Context, dir string, env []string, program string, args ...string) ([]byte, error) {
	name, err := s.lookPath(program)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limitedWriter{&stdout, maxList}, &limitedWriter{&stderr, 64 << 10}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &exit):
		return stdout.Bytes(), fmt.Errorf("%s %s: %s", program, args[0], whatItSaid(stderr.String(), exit))
	}
	return stdout.Bytes(), err
}

// lookPath finds a program of the user's.
func (s *Source) lookPath(program string) (string, error) {
	if name, err := exec.LookPath(program); err == nil {
		return filepath.Abs(name)
	}
	if name := "/usr/local/go/bin/go"; program == "go" {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			return name, nil
		}
	}
	return "", fmt.Errorf("the %s command, which knows the registry, is not installed", program)
}

// whatItSaid is the part of a failed command's words that matters.
func whatItSaid(text string, exit *exec.ExitError) string {
	var said []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		lower := strings.ToLower(line)
		if line == "" || strings.HasPrefix(lower, "npm warn") || strings.HasPrefix(lower, "npm notice") ||
			strings.Contains(lower, "a complete log of this run") || strings.HasPrefix(lower, "go: downloading") {
			continue
		}
		said = append(said, strings.TrimPrefix(strings.TrimPrefix(line, "npm error "), "npm ERR! "))
	}
	if len(said) == 0 {
		return exit.Error()
	}
	return strings.Join(said[:min(len(said), 3)], "; ")
}

type limitedWriter struct {
	to   *bytes.Buffer
	room int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), l.room)
	l.room -= n
	l.to.Write(p[:n])
	return len(p), nil
}

// workDir makes a directory for a command.
func (s *Source) workDir() (string, error) {
	dir := filepath.Join(s.Dir, "archives")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return os.MkdirTemp(dir, ".work-*")
}

func writeFile(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
}
