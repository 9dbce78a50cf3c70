package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Append implements Store. What was sealed before is taken back into the spool.
func (b *Bucket) Append(key string, offset int64, p []byte, at time.Time) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if !b.spool.appending(key) {
		if err := b.takeBack(key); err != nil {
			return fmt.Errorf("append to blob %s: %w", key, err)
		}
	}
	err := b.spool.Append(key, offset, p, at)
	if gap := (*GapError)(nil); !errors.As(err, &gap) || gap.Size > 0 {
		return err
	}
	// Another server has sealed it since it was opened here.
	if err := b.spool.Delete(key); err != nil {
		return err
	}
	if err := b.takeBack(key); err != nil {
		return fmt.Errorf("append to blob %s: %w", key, err)
	}
	return b.spool.Append(key, offset, p, at)
}

// takeBack copies a blob from the bucket into the spool, unless it is there.
func (b *Bucket) takeBack(key string) error {
	if _, err := b.spool.Stat(key); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	o, err := b.object(b.prefix + key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	times, err := b.times(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), moveFor)
	defer cancel()
	if len(times) > 0 {
		if _, err := b.spool.putRaw(ctx, timesDir+"/"+key, bytes.NewReader(times)); err != nil {
			return err
		}
	}
	_, err = b.spool.Put(ctx, key, o)
	return err
}

// Seal implements Store. While the bucket is away the blob stays in the spool, where it is durable too, and is moved later.
func (b *Bucket) Seal(key string) error {
	if err := b.spool.Seal(key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	defer cancel()
	if err := b.move(ctx, key); err != nil {
		b.log.Warn("a blob stays in the spool for now", "blob", key, "error", err)
	}
	return nil
}

// Release implements Store.
func (b *Bucket) Release(key string) error { return b.spool.Release(key) }

// Times implements Store.
func (b *Bucket) Times(key string) ([]Mark, error) {
	marks, err := b.spool.Times(key)
	if marks != nil || err != nil {
		return marks, err
	}
	times, err := b.times(key)
	if err != nil {
		return nil, fmt.Errorf("read times of blob %s: %w", key, err)
	}
	return parseMarks(times), nil
}

// maxTimes bounds the times of a blob, bytes.
const maxTimes = 256 << 20

// times reads the marks of a blob in the bucket, as they are stored.
func (b *Bucket) times(key string) ([]byte, error) {
	o, err := b.object(b.prefix + timesDir + "/" + key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if o.size > maxTimes {
		return nil, fmt.Errorf("larger than %d bytes", maxTimes)
	}
	all := make([]byte, o.size)
	_, err = o.ReadAt(all, 0)
	return all, err
}

// move brings a blob and its times from the spool into the bucket, if it is there.
func (b *Bucket) move(ctx context.Context, key string) error {
	f, err := b.spool.Open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if times, err := b.spool.root.Open(timesDir + "/" + key); err == nil {
		_, err = b.put(ctx, b.prefix+timesDir+"/"+key, times)
		times.Close()
		if err != nil {
			return plain(err)
		}
	}
	if _, err := b.put(ctx, b.prefix+key, f); err != nil {
		return plain(err)
	}
	return b.spool.Delete(key)
}

// sweep moves what was left behind in the spool, until ctx ends.
func (b *Bucket) sweep(ctx context.Context) {
	for {
		list, err := b.spool.List("")
		for _, info := range list {
			if time.Since(info.Modified) < restAfter {
				continue
			}
			_ = b.spool.Release(info.Key)
			moving, cancel := context.WithTimeout(ctx, moveFor)
			err = b.move(moving, info.Key)
			cancel()
			if err != nil {
				break
			}
		}
		if err != nil && ctx.Err() == nil {
			b.log.Warn("what lies in the spool can not be moved", "error", err)
		}
		select {
		case <-time.After(sweepEvery):
		case <-ctx.Done():
			return
		}
	}
}
