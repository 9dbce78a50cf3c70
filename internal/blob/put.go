package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"
)

// Put implements Store.
func (s *Dir) Put(ctx context.Context, key string, r io.Reader) (int64, error) {
	if err := CheckKey(key); err != nil {
		return 0, err
	}
	size, err := s.putRaw(ctx, key, r)
	if err != nil {
		return 0, fmt.Errorf("put blob %s: %w", key, err)
	}
	return size, nil
}

// putRaw is Put for any name below the directory.
func (s *Dir) putRaw(ctx context.Context, name string, r io.Reader) (int64, error) {
	temp := tempDir + "/" + rand.Text()
	size, err := s.writeTemp(ctx, temp, r)
	if err == nil {
		err = s.publish(temp, name)
	}
	if err != nil {
		s.root.Remove(temp)
	}
	return size, err
}

// copySize is how much is copied at once, bytes: large blobs come at the speed of memory, and each read is a system call.
const copySize = 512 << 10

var buffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// Concat implements Store.
func (s *Dir) Concat(key string, parts ...string) (int64, error) {
	defer func() {
		for _, p := range parts {
			_ = s.Delete(p) // what resists is in nobody's way
		}
	}()
	temp := tempDir + "/" + rand.Text()
	size, err := s.concat(temp, key, parts)
	if err != nil {
		s.root.Remove(temp)
		return 0, fmt.Errorf("put blob %s together: %w", key, err)
	}
	return size, nil
}

func (s *Dir) concat(temp, key string, parts []string) (size int64, err error) {
	for _, k := range append([]string{key}, parts...) {
		if err := CheckKey(k); err != nil {
			return 0, err
		}
	}
	if len(parts) > 0 { // the first is where it lies
		if err := s.root.Rename(parts[0], temp); err != nil {
			return 0, err
		}
	}
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	if size, err = f.Seek(0, io.SeekEnd); err == nil {
		for _, p := range parts[min(1, len(parts)):] {
			n, partErr := s.appendPart(f, p)
			if size += n; partErr != nil {
				err = partErr
				break
			}
		}
	}
	if err == nil && !s.unsynced {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	return size, s.publish(temp, key)
}

// appendPart adds one blob to a file, within the kernel where it can.
func (s *Dir) appendPart(f *os.File, part string) (int64, error) {
	from, err := s.root.Open(part)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	return f.ReadFrom(from)
}

func (s *Dir) writeTemp(ctx context.Context, temp string, r io.Reader) (int64, error) {
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	buffer := buffers.Get().(*[copySize]byte)
	size, err := io.CopyBuffer(roomyFile{s, f}, contextReader{ctx, r}, buffer[:]) // a file's own ReadFrom takes small steps
	buffers.Put(buffer)
	if err == nil && !s.unsynced {
		err = f.Sync()
	}
	return size, errors.Join(err, f.Close())
}

// publish gives the finished temporary file its name, and makes name and directories durable.
func (s *Dir) publish(temp, key string) error {
	dir := path.Dir(key)
	_, err := s.root.Stat(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		if err := s.root.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := s.root.Rename(temp, key); err != nil {
		return err
	}
	for ; !s.unsynced; dir = path.Dir(dir) {
		if err := s.syncDir(dir); err != nil {
			return err
		}
		if dir == "." || !fresh {
			break
		}
	}
	return nil
}

func (s *Dir) syncDir(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeStaleTemps removes what killed Puts left behind. Younger files may belong to another process.
func (s *Dir) removeStaleTemps(before time.Time) {
	entries, err := fs.ReadDir(s.root.FS(), tempDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().Before(before) {
			s.root.Remove(tempDir + "/" + e.Name())
		}
	}
}

// contextReader ends a copy when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
