package image

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// A stage of a pipe hands over chunks of this size, and is at most so many ahead.
	chunkSize   = 256 << 10
	chunksAhead = 8
	// maxWindow bounds what a packed stream may make us keep in memory.
	maxWindow = 128 << 20
)

// ahead reads from a source in a goroutine of its own, so that fetching, unpacking and writing go on at the same time.
type ahead struct {
	full chan chunk
	free chan []byte
	stop chan struct{}
	done chan struct{}
	now  []byte // of buf, not read yet
	buf  []byte
	err  error
}

type chunk struct {
	data []byte
	err  error
}

// readAhead begins to read. Close must be called; it waits for a read under way, so what r waits for must end then.
func readAhead(r io.Reader) *ahead {
	a := &ahead{
		full: make(chan chunk, chunksAhead), free: make(chan []byte, chunksAhead+1),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	for range chunksAhead {
		a.free <- nil // memory is taken when it is needed
	}
	go a.fill(r)
	return a
}

func (a *ahead) fill(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.stop:
			return
		}
		if buf == nil {
			buf = make([]byte, chunkSize)
		}
		n, err := fill(r, buf[:chunkSize])
		select {
		case a.full <- chunk{buf[:n], err}:
		case <-a.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// fill reads until p is full or the source fails. Unlike io.ReadFull it tells the end from a stream that was cut off.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.now) == 0 {
		if a.buf != nil {
			a.free <- a.buf[:0:cap(a.buf)]
			a.buf = nil
		}
		if a.err != nil {
			return 0, a.err
		}
		c, ok := <-a.full
		if !ok {
			return 0, io.ErrClosedPipe
		}
		a.now, a.buf, a.err = c.data, c.data, c.err
	}
	n := copy(p, a.now)
	a.now = a.now[n:]
	return n, nil
}

// Close ends the reading and waits for it.
func (a *ahead) Close() error {
	close(a.stop)
	<-a.done
	return nil
}

// unpackStream gives what a gzip or zstd stream holds, or the stream itself if it is neither: what it is, is taken from its
// first bytes, as media types lie. limit bounds what comes out, in bytes.
func unpackStream(r io.Reader, limit int64) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	start, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	var out io.ReadCloser
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("%w: gzip: %w", ErrArchive, err)
		}
		out = z
	case bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %w", ErrArchive, err)
		}
		out = z.IOReadCloser()
	case bytes.HasPrefix(start, []byte("BZh")), bytes.HasPrefix(start, []byte("\xfd7zXZ")):
		return nil, fmt.Errorf("%w: packed with bzip2 or xz: pack it with gzip or zstd", ErrArchive)
	default:
		out = io.NopCloser(b)
	}
	return &limited{out, limit}, nil
}

// limited fails when more comes than allowed.
type limited struct {
	io.ReadCloser
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("it unpacks to too much: %w", ErrTooLarge)
	}
	return n, err
}
