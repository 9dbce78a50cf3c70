//go:build unix

package sandbox

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// resizeAgain is how long to wait when the daemon knows no terminal yet.
const resizeAgain = 50 * time.Millisecond

// followSize gives the command's terminal the size of the caller's, now and whenever that changes, until the function
// that it returns is called.
func (e *dockerExec) followSize(ctx context.Context) (stop func()) {
	screen, ok := e.cmd.Stdout.(*os.File)
	if !ok || !term.IsTerminal(int(screen.Fd())) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	var following sync.WaitGroup
	following.Go(func() {
		for {
			again := time.NewTimer(resizeAgain)
			if width, height, err := term.GetSize(int(screen.Fd())); err == nil {
				_, err = e.c.d.api.ExecResize(ctx, e.id, client.ExecResizeOptions{Height: uint(height), Width: uint(width)})
				if err == nil { // else the daemon may not have started it yet
					again.Stop()
				}
			}
			select {
			case <-again.C:
			case <-resized:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		signal.Stop(resized)
		cancel()
		following.Wait()
	}
}
