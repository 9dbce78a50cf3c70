//go:build unix

package sandbox

import (
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// nonblock keeps an open from waiting for a pipe's other end.
const nonblock = unix.O_NONBLOCK

// ownGroup puts a command into a process group of its own; one with a terminal stays with the terminal.
func ownGroup(tty bool) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: !tty} }

// killMarked kills process groups, and on systems that tell, every process with mark in its environment.
func killMarked(groups []int, mark string) {
	for _, g := range groups {
		_ = unix.Kill(-g, unix.SIGKILL)
	}
	if mark != "" {
		killByEnviron(mark)
	}
}

// flow connects a plain command's output with the caller's writers.
type flow struct {
	theirs  []*os.File
	copiers []*copier
}

// connect opens pipes for what the command reads and writes. Input is left to cmd.
func connect(cmd *exec.Cmd, c Command) (*flow, error) {
	f := &flow{}
	if c.TTY {
		return f, nil
	}
	if c.Stdin != nil {
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		go func() { // ends with the pipe or with the caller's reader, whose end nobody can bring about
			_, _ = io.Copy(in, c.Stdin)
			in.Close()
		}()
	}
	for i, w := range []io.Writer{c.Stdout, c.Stderr} {
		switch {
		case w == nil:
			continue
		case i == 1 && sameWriter(c.Stdout, w):
			cmd.Stderr = cmd.Stdout
			continue
		}
		r, theirs, err := os.Pipe()
		if err != nil {
			f.close()
			return nil, err
		}
		f.theirs = append(f.theirs, theirs)
		f.copiers = append(f.copiers, &copier{from: r, to: w, done: make(chan struct{})})
		if i == 0 {
			cmd.Stdout = theirs
		} else {
			cmd.Stderr = theirs
		}
	}
	return f, nil
}

// start begins copying: the command has its ends now.
func (f *flow) start() {
	for _, t := range f.theirs {
		t.Close()
	}
	for _, c := range f.copiers {
		go c.run()
	}
}

func (f *flow) drain() error {
	var first error
	for _, c := range f.copiers {
		if err := c.drain(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (f *flow) close() {
	for _, t := range f.theirs {
		t.Close()
	}
	for _, c := range f.copiers {
		c.from.Close()
	}
}
