package cli

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		end := patience(&out, "It is prepared")
		time.Sleep(2*patienceTime + time.Second)
		end()
		if got, want := out.String(), "It is prepared (5.0s)\nIt is prepared (10s)\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
