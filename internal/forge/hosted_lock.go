package forge

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// held is a repository's lock: whoever changes its branches and tags has it from before the journal is written until
// it is known what changed.
//
// The lock is on an open file, which a git that receives a push inherits. So when the server is killed and git lives
// on for a moment, the server's successor waits for it and does not judge a push while its refs still change.
type held struct {
	file  *os.File
	place chan struct{}
}

// lock waits for the repository's lock, and brings the journal up to date for who has it.
func (b *Bare) lock(ctx context.Context) (*held, error) {
	f, err := b.openLock()
	if err != nil {
		return nil, err
	}
	held, err := b.lockOn(ctx, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return held, nil
}

func (b *Bare) openLock() (*os.File, error) {
	f, err := os.OpenFile(b.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoRepository
	}
	return f, err
}

// lockOn takes the lock on a file that is open already.
func (b *Bare) lockOn(ctx context.Context, f *os.File) (*held, error) {
	place, err := b.host.turn(ctx, "lock "+b.dir)
	if err != nil {
		return nil, err
	}
	h := &held{file: f, place: place}
	if err := waitLock(ctx, f); err != nil {
		<-place
		return nil, err
	}
	if !b.stillHere(f) {
		h.release()
		return nil, ErrNoRepository
	}
	if err := b.settle(ctx); err != nil {
		h.release()
		return nil, err
	}
	return h, nil
}

// waitLock waits for a lock that another process has. In this process there is one at a time that asks.
func waitLock(ctx context.Context, f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// stillHere reports whether the lock is still that of the repository: it may have been moved while we waited.
func (b *Bare) stillHere(f *os.File) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	want, err := os.Stat(b.lockFile())
	return err == nil && os.SameFile(have, want)
}

// release gives the lock back, also for a process that inherited the file. It may be called twice.
func (h *held) release() {
	if h.file == nil {
		return
	}
	_ = syscall.Flock(int(h.file.Fd()), syscall.LOCK_UN)
	h.file.Close()
	h.file = nil
	<-h.place
}

// turn waits until nobody else in this process does what the name says. Reading from the channel ends the turn.
func (h *Hosted) turn(ctx context.Context, name string) (chan struct{}, error) {
	h.mu.Lock()
	place := h.locks[name]
	if place == nil {
		place = make(chan struct{}, 1)
		h.locks[name] = place
	}
	h.mu.Unlock()
	select {
	case place <- struct{}{}:
		return place, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
