package build

import (
	"context"
	"io"
)

// CacheSource is a cache that WriteCache wrote.
type CacheSource struct {
	Name string // for messages
	// Open gives the archive; its error is told as a note, since a build goes on without a cache.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

func (w *work) takeCache(ctx context.Context, from CacheSource) {}
