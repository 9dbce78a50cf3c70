package store

import (
	"sync"
	"testing"

	"github.com/penstock-ci/penstock/internal/pgtest"
)

// server is the PostgreSQL of all tests that do not stop it.
var server struct {
	sync.Mutex
	made *pgtest.Server
}

func postgres(t testing.TB) *pgtest.Server {
	t.Helper()
	server.Lock()
	defer server.Unlock()
	if server.made == nil {
		var err error
		if server.made, err = pgtest.New(); err != nil {
			t.Fatal(err)
		}
	}
	return server.made
}
