package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// Put implements Sandbox. It is unpacked inside, by the machine's root: links lead nowhere else.
func (m *inner) Put(ctx context.Context, dir string, tar io.Reader) error {
	if err := m.put(ctx, dir, tar); err != nil {
		return fmt.Errorf("put files into %s: %w", dir, err)
	}
	return nil
}

func (m *inner) put(ctx context.Context, dir string, tar io.Reader) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	m.disk.RLock()
	defer m.disk.RUnlock()
	m.used.Store(true)
	call, err := m.agent.Start(agent.OpUnpack, &agent.Paths{Paths: []string{dir}}, int(r.Fd()))
	r.Close()
	if err != nil {
		w.Close()
		return err
	}
	defer call.End()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, tar)
		w.Close()
		copied <- err
	}()
	_, err = call.Wait(ctx, nil)
	_ = w.SetWriteDeadline(past) // what it did not want to read it need not get
	sent := <-copied
	if err != nil || errors.Is(sent, syscall.EPIPE) || errors.Is(sent, os.ErrDeadlineExceeded) {
		return err
	}
	return sent
}

// Get implements Sandbox.
func (m *inner) Get(ctx context.Context, path string) (io.ReadCloser, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	call, err := m.agent.Start(agent.OpPack, &agent.Paths{Paths: []string{path}}, int(w.Fd()))
	w.Close()
	if err == nil {
		_, err = call.Wait(ctx, nil)
		if err != nil {
			call.End()
		}
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return &packed{File: r, path: path, call: call, stop: context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(past) })}, nil
}

// packed is a stream from the agent. Its end is only an end if the agent says so.
type packed struct {
	*os.File
	path string
	call *agent.Call
	stop func() bool
	end  error
}

func (p *packed) Read(b []byte) (int, error) {
	if p.end != nil {
		return 0, p.end
	}
	n, err := p.File.Read(b)
	if err == io.EOF {
		if _, bad := p.call.Wait(context.Background(), nil); bad != nil {
			err = fmt.Errorf("get %s: %w", p.path, bad)
		}
		p.end = err
	}
	return n, err
}

// WriteTo keeps io.Copy from reading past us.
func (p *packed) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{p})
}

func (p *packed) Close() error {
	p.stop()
	p.call.End()
	return p.File.Close()
}

// Open implements Readable.
func (m *machine) Open(dir string) (*os.Root, error) {
	tree, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root", m.id))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	defer tree.Close()
	root, err := tree.OpenRoot(strings.TrimLeft(path.Clean("/"+dir), "/") + "/.")
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return root, nil
}
