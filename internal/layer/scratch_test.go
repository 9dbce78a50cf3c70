package layer

import (
	"os"
	"sync"
	"testing"
)

// TestScratchWhileOthersOpen makes directories while others open the store, which removes what nobody has: that is
// never one that is being made.
func TestScratchWhileOthersOpen(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	done := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				other, err := Open(dir)
				if err != nil {
					t.Error(err)
					return
				}
				other.Close()
			}
		})
	}
	for range 2000 {
		c, err := s.Scratch()
		if err != nil {
			t.Error(err)
			break
		}
		if _, err := os.Stat(c.Dir()); err != nil {
			t.Error(err)
		}
		if err := c.Release(); err != nil {
			t.Error(err)
		}
	}
	close(done)
	others.Wait()
}
