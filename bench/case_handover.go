package main

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-ci/penstock/internal/proxy"
	"github.com/penstock-ci/penstock/internal/proxy/daemon"
)

const (
	handOverConnections = 64
	// handOverBetween is how long the load goes on after each change.
	handOverBetween = 200 * time.Millisecond
)

// measureHandOver: the proxy's process is restarted and upgraded under load; beside it, the same is done the plain way, by
// stopping it and starting it again. A client keeps its connection, never tries again, and counts every error.
func measureHandOver(ctx context.Context, b *bench) error {
	other := filepath.Join(b.dir, "penstock-other")
	if err := copyOtherBuild(b.penstock, other); err != nil {
		return err
	}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer backend.Close()
	dir, err := os.MkdirTemp("", "proxy") // sockets have short paths
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	conf := daemon.Config{Dir: dir, Listen: addr, Command: []string{b.penstock, "proxy", "run"}}
	client, err := daemon.Ensure(ctx, conf)
	if err != nil {
		return err
	}
	defer func() { _ = client.Stop(context.WithoutCancel(ctx)) }()
	table := proxy.Table{Version: 1, Routes: []proxy.Route{{Name: "a/b/c/d", Pools: []proxy.Pool{{
		Name: "1", Weight: 1, Backends: []proxy.Backend{{Addr: backend.Listener.Addr().String()}},
	}}}}}
	if err := client.Set(ctx, table); err != nil {
		return err
	}
	rounds := b.size(20, 2)
	wait := func() error {
		select {
		case <-time.After(handOverBetween):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var took time.Duration
	ours, oursFailed, err := underLoad(addr, func() error {
		for i := range 2 * rounds {
			began := time.Now()
			var err error
			if i < rounds {
				err = client.Restart(ctx)
			} else {
				conf.Command[0] = []string{other, b.penstock}[i%2]
				_, err = daemon.Ensure(ctx, conf)
			}
			took += time.Since(began)
			if err := errors.Join(err, wait()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	plain, plainFailed, err := underLoad(addr, func() error {
		for range rounds {
			if err := client.Stop(ctx); err != nil {
				return err
			}
			if _, err := daemon.Ensure(ctx, conf); err != nil {
				return err
			}
			if err := wait(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.rows = append(b.rows, row{
		fmt.Sprintf("requests lost in %d restarts and %d upgrades of the proxy, %d connections", rounds, rounds, handOverConnections),
		fmt.Sprintf("%d of %d", oursFailed, ours),
		fmt.Sprintf("%d plain restarts: %d of %d", rounds, plainFailed, plain),
		fmt.Sprintf("%s each", millis(took/time.Duration(2*rounds))), "none", oursFailed == 0,
	})
	return nil
}

// underLoad asks at an address with many connections while change runs, and counts what was asked and what failed.
func underLoad(addr string, change func() error) (asked, failed int64, err error) {
	var all, bad atomic.Int64
	var group sync.WaitGroup
	done := make(chan struct{})
	for range handOverConnections {
		group.Go(func() {
			var conn net.Conn
			var in *bufio.Reader
			defer func() {
				if conn != nil {
					_ = conn.Close()
				}
			}()
			for {
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
				all.Add(1)
				keep, err := func() (bool, error) {
					if conn == nil {
						c, err := net.Dial("tcp", addr)
						if err != nil {
							return false, err
						}
						conn, in = c, bufio.NewReader(c)
					}
					if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: bench.localhost\r\n\r\n"); err != nil {
						return false, err
					}
					w, err := http.ReadResponse(in, nil)
					if err != nil {
						return false, err
					}
					if _, err := io.Copy(io.Discard, w.Body); err != nil {
						return false, err
					}
					if w.StatusCode != http.StatusOK {
						return false, errors.New(w.Status)
					}
					return !w.Close, nil
				}()
				if err != nil {
					bad.Add(1)
				}
				if !keep && conn != nil {
					_ = conn.Close()
					conn = nil
				}
			}
		})
	}
	err = change()
	close(done)
	group.Wait()
	return all.Load(), bad.Load(), err
}

// copyOtherBuild copies a program and gives the copy another build id, as a change of its code would.
func copyOtherBuild(from, to string) error {
	f, err := elf.Open(from)
	if err != nil {
		return err
	}
	note := f.Section(".note.go.buildid")
	_ = f.Close()
	if note == nil {
		return fmt.Errorf("%s has no build id", from)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	b[note.Offset+20] ^= 1
	return os.WriteFile(to, b, 0o700)
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
