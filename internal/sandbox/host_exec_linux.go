package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// inner is a machine or a container from within: the commands and files that its agent serves.
type inner struct {
	h     *Host
	agent *agent.Client
	dir   string // where commands run that name no directory

	disk sync.RWMutex // held for writing while the disk is rearranged; commands start with it held for reading
	used atomic.Bool  // something was done: the disk may differ from what it began with
}

// Exec implements Sandbox.
func (m *inner) Exec(ctx context.Context, c Command) error {
	if len(c.Args) == 0 {
		return errors.New("run a command: no arguments")
	}
	if c.Dir == "" {
		c.Dir = m.dir
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	err := m.exec(ctx, c)
	var exit *ExitError
	if err == nil || errors.As(err, &exit) || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", c.Args[0], err)
}

func (m *inner) exec(ctx context.Context, c Command) error {
	flow, err := openStreams(c, m.h.null)
	if err != nil {
		return err
	}
	defer flow.close()
	call, pid, err := m.startCommand(ctx, c, flow)
	if err != nil {
		return err
	}
	defer call.End()
	flow.start()
	ladder := m.h.Ladder
	if c.Stop != nil {
		ladder = *c.Stop
	}
	ended, err := m.await(ctx, call, pid, ladder)
	if err != nil {
		return err
	}
	if err := flow.drain(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return exitError(ended)
}

// startCommand hands the command over to the agent.
func (m *inner) startCommand(ctx context.Context, c Command, flow *streams) (*agent.Call, int, error) {
	m.disk.RLock()
	defer m.disk.RUnlock()
	m.used.Store(true)
	req := &agent.Exec{Args: c.Args, Env: c.Env, Dir: c.Dir, TTY: c.TTY, User: c.User, Offline: c.Offline}
	if c.TTY {
		req.Rows, req.Cols = flow.size()
	}
	call, err := m.agent.Start(agent.OpExec, req, flow.theirs()...)
	if err != nil {
		return nil, 0, err
	}
	var started agent.Started
	files, err := call.Wait(context.WithoutCancel(ctx), &started) // a fork takes no time, and can not be taken back
	if err != nil {
		call.End()
		return nil, 0, err
	}
	flow.handedOver(files)
	return call, started.Pid, nil
}

// await waits for the end of a command and brings it about when ctx ends.
func (m *inner) await(ctx context.Context, call *agent.Call, pid int, ladder Ladder) (*agent.Ended, error) {
	ended := &agent.Ended{}
	_, err := call.Wait(ctx, ended)
	if ctx.Err() == nil || err == nil {
		return ended, err
	}
	for _, rung := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{unix.SIGINT, ladder.Interrupt}, {unix.SIGTERM, ladder.Terminate}} {
		if rung.wait == 0 {
			continue
		}
		if err := m.signal(&agent.Signal{Pid: pid, Signal: int(rung.signal)}); err != nil {
			return nil, err
		}
		waiting, cancel := context.WithTimeout(context.WithoutCancel(ctx), rung.wait)
		_, err = call.Wait(waiting, ended)
		cancel()
		if err == nil || !errors.Is(err, context.DeadlineExceeded) {
			return ended, err
		}
	}
	if err := m.signal(&agent.Signal{Pid: pid, Tree: true}); err != nil {
		return nil, err
	}
	_, err = call.Wait(context.WithoutCancel(ctx), ended)
	return ended, err
}

func (m *inner) signal(s *agent.Signal) error {
	_, err := m.agent.Do(context.Background(), agent.OpSignal, s, nil)
	if errors.Is(err, syscall.ESRCH) {
		return nil // it has just ended
	}
	return err
}

func exitError(e *agent.Ended) error {
	switch {
	case e.Signal != 0:
		return &ExitError{Code: e.Code, Signal: syscall.Signal(e.Signal).String()}
	case e.Code != 0:
		return &ExitError{Code: e.Code}
	}
	return nil
}

// streams connect a command's input and output with the caller's.
type streams struct {
	c       Command
	files   [3]*os.File // the command's ends
	ours    []*os.File  // the other ends of output
	stdin   *os.File    // the other end of input
	copying sync.WaitGroup
	copiers []*copier

	terminal *os.File // the other end of the command's terminal
	resized  chan os.Signal
}

func openStreams(c Command, null *os.File) (s *streams, err error) {
	s = &streams{c: c}
	if c.TTY {
		if _, ok := c.Stdin.(*os.File); !ok {
			return nil, errors.New("a terminal needs a terminal as input")
		}
		if _, ok := c.Stdout.(*os.File); !ok {
			return nil, errors.New("a terminal needs a terminal as output")
		}
		return s, nil
	}
	s.files = [3]*os.File{null, null, null}
	defer func() {
		if err != nil {
			s.handedOver(nil)
			s.close()
		}
	}()
	if c.Stdin != nil {
		if s.files[0], s.stdin, err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	for i, w := range []io.Writer{c.Stdout, c.Stderr} {
		switch {
		case w == nil:
			continue
		case i == 1 && sameWriter(c.Stdout, w):
			s.files[2] = s.files[1]
			continue
		}
		r, theirs, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		_, _ = unix.FcntlInt(theirs.Fd(), unix.F_SETPIPE_SZ, pipeSize) // smaller only costs speed
		s.files[i+1] = theirs
		s.ours = append(s.ours, r)
		s.copiers = append(s.copiers, &copier{from: r, to: w, done: make(chan struct{})})
	}
	return s, nil
}

func (s *streams) size() (rows, cols int) {
	size, err := unix.IoctlGetWinsize(int(s.c.Stdin.(*os.File).Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return int(size.Row), int(size.Col)
}

func (s *streams) theirs() []int {
	if s.c.TTY {
		return nil
	}
	return []int{int(s.files[0].Fd()), int(s.files[1].Fd()), int(s.files[2].Fd())}
}

// handedOver closes what the command has now. got are the files that came back.
func (s *streams) handedOver(got []*os.File) {
	if len(got) > 0 {
		s.terminal = got[0]
	}
	for i, f := range s.files {
		if f == nil || f.Name() == os.DevNull || i == 2 && f == s.files[1] {
			continue
		}
		f.Close()
	}
	s.files = [3]*os.File{}
}

// start begins copying.
func (s *streams) start() {
	for _, c := range s.copiers {
		go c.run()
	}
	if s.stdin != nil {
		go func() { // ends with the pipe or with the caller's reader, whose end nobody can bring about
			_, _ = io.Copy(s.stdin, s.c.Stdin)
			s.stdin.Close()
		}()
	}
	if s.terminal != nil {
		s.startTerminal()
	}
}

func (s *streams) startTerminal() {
	in, out := s.c.Stdin.(*os.File), s.c.Stdout
	go func() { _, _ = io.Copy(s.terminal, in) }() // ends with the terminal or the caller's input
	s.copying.Go(func() { _, _ = io.Copy(out, s.terminal) })
	s.resized = make(chan os.Signal, 1)
	signal.Notify(s.resized, unix.SIGWINCH)
	s.copying.Go(func() {
		for range s.resized {
			if size, err := unix.IoctlGetWinsize(int(in.Fd()), unix.TIOCGWINSZ); err == nil {
				_ = unix.IoctlSetWinsize(int(s.terminal.Fd()), unix.TIOCSWINSZ, size)
			}
		}
	})
}

// drain waits until the output is read to its end, or what had been written has been read and the grace is over. It
// gives the first error of the caller's writers.
func (s *streams) drain() error {
	var first error
	for _, c := range s.copiers {
		if err := c.drain(); err != nil && first == nil {
			first = fmt.Errorf("write output: %w", err)
		}
	}
	if s.terminal != nil {
		signal.Stop(s.resized)
		close(s.resized)
		s.copying.Wait()
	}
	return first
}

func (s *streams) close() {
	s.handedOver(nil)
	for _, f := range s.ours {
		f.Close()
	}
	for _, f := range []*os.File{s.stdin, s.terminal} {
		if f != nil {
			f.Close()
		}
	}
}
