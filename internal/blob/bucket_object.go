package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/minio/minio-go/v7"
)

const (
	// What is read of an object at once, bytes: more with each read that follows the one before.
	minRead = 256 << 10
	maxRead = 8 << 20
)

// object is an object that is open for reading, as it was when it was opened. It is for one goroutine.
type object struct {
	b        *Bucket
	name     string
	size     int64
	etag     string
	modified time.Time

	pos   int64
	block []byte // the bytes from at on
	at    int64
	next  int // how much is read next
}

func (o *object) Read(p []byte) (int, error) {
	n, err := o.ReadAt(p[:min(int64(len(p)), max(o.size-o.pos, 0))], o.pos)
	o.pos += int64(n)
	if n == 0 && len(p) > 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (o *object) ReadAt(p []byte, from int64) (n int, err error) {
	if from < 0 {
		return 0, errors.New("negative offset")
	}
	for n < len(p) {
		if from+int64(n) >= o.size {
			return n, io.EOF
		}
		if from := from + int64(n); from < o.at || from >= o.at+int64(len(o.block)) {
			if err := o.fetch(from); err != nil {
				return n, fmt.Errorf("read blob %s: %w", o.name, plain(err))
			}
		}
		n += copy(p[n:], o.block[from+int64(n)-o.at:])
	}
	return n, nil
}

// fetch reads the bytes from an offset on.
func (o *object) fetch(from int64) error {
	if from == o.at+int64(len(o.block)) && len(o.block) > 0 {
		o.next = min(2*o.next, maxRead)
	} else {
		o.next = minRead
	}
	ctx, cancel := context.WithTimeout(context.Background(), moveFor)
	defer cancel()
	var options minio.GetObjectOptions
	end := min(from+int64(o.next), o.size)
	err := options.SetRange(from, end-1)
	if err == nil && o.etag != "" {
		err = options.SetMatchETag(o.etag)
	}
	if err != nil {
		return err
	}
	core := minio.Core{Client: o.b.client}
	body, _, _, err := core.GetObject(ctx, o.b.bucket, o.name, options)
	if err != nil {
		return err
	}
	defer body.Close()
	block := make([]byte, end-from)
	if _, err := io.ReadFull(body, block); err != nil {
		return err
	}
	o.block, o.at = block, from
	return nil
}

func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.pos
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, errors.New("negative offset")
	}
	o.pos = offset
	return offset, nil
}

func (o *object) Close() error { return nil }

func (o *object) Stat() (fs.FileInfo, error) { return objectInfo{o}, nil }

// objectInfo is what http.ServeContent and others ask of a file.
type objectInfo struct{ o *object }

func (i objectInfo) Name() string       { return path.Base(i.o.name) }
func (i objectInfo) Size() int64        { return i.o.size }
func (i objectInfo) Mode() fs.FileMode  { return 0o600 }
func (i objectInfo) ModTime() time.Time { return i.o.modified }
func (i objectInfo) IsDir() bool        { return false }
func (i objectInfo) Sys() any           { return nil }
