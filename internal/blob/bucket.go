package blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	// askFor bounds a request about a blob, moveFor one that moves the bytes of a log.
	askFor  = time.Minute
	moveFor = 10 * time.Minute
	// small blobs are put in one request of known size.
	small = 1 << 20
	// partSize is what larger blobs are put in, bytes: of 10,000 parts at most.
	partSize = 16 << 20
	// What lies in the spool for restAfter was left behind by a server that was killed, or when the bucket was away.
	sweepEvery = 5 * time.Minute
	restAfter  = time.Hour
)

// Bucket is a Store in a bucket of an S3-compatible object store. Objects can not be appended to: what is appended lies in
// a spool, a Dir, until Seal moves it. Several servers may share a bucket if they share the spool, too.
type Bucket struct {
	client *minio.Client
	bucket string
	prefix string // "" or with a slash at its end
	spool  *Dir
	log    *slog.Logger
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

// OpenBucket opens the store at a URL: s3://BUCKET[/PREFIX][?endpoint=URL][&region=REGION]. Without an endpoint it is Amazon's.
// Credentials are those of AWS's own tools: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile in ~/.aws, the machine's role.
// It writes, reads and removes an object first, so that what is wrong is told at once.
func OpenBucket(ctx context.Context, address, spool string, log *slog.Logger) (*Bucket, error) {
	b, err := parseBucket(address)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	if b.spool, err = Open(spool); err != nil {
		return nil, err
	}
	b.log = log
	if err := b.check(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open blob store %s: %w", address, err), b.spool.Close())
	}
	ctx, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	b.ended.Go(func() { b.sweep(ctx) })
	return b, nil
}

// parseBucket reads the URL of a store.
func parseBucket(address string) (*Bucket, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	query := u.Query()
	for name := range query {
		if name != "endpoint" && name != "region" {
			return nil, fmt.Errorf("%s: there is no parameter %s: endpoint and region there are", address, name)
		}
	}
	if u.Scheme != "s3" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%s: it must be s3://BUCKET or s3://BUCKET/PREFIX, and credentials come from the environment", u.Redacted())
	}
	options := &minio.Options{Secure: true, Region: query.Get("region"), MaxRetries: 4, Transport: transport()}
	options.Creds = credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: &http.Client{Timeout: 3 * time.Second}},
	})
	host := "s3.amazonaws.com"
	if endpoint := query.Get("endpoint"); endpoint != "" {
		e, err := url.Parse(endpoint)
		if err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" || strings.Trim(e.Path, "/") != "" {
			return nil, fmt.Errorf("%s: the endpoint must be http://HOST:PORT or https://HOST:PORT", address)
		}
		host, options.Secure, options.BucketLookup = e.Host, e.Scheme == "https", minio.BucketLookupPath
	}
	b := &Bucket{bucket: u.Host, prefix: strings.Trim(u.Path, "/")}
	if b.prefix != "" {
		if err := CheckKey(b.prefix); err != nil {
			return nil, err
		}
		b.prefix += "/"
	}
	b.client, err = minio.New(host, options)
	return b, err
}

// transport gives up on a server that says nothing.
func transport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	t.ResponseHeaderTimeout = 30 * time.Second
	t.MaxIdleConnsPerHost = 32
	t.DisableCompression = true
	return t
}

// check tells what is wrong with the bucket by using it.
func (b *Bucket) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	name, want := b.prefix+".check/"+rand.Text(), []byte("penstock")
	if _, err := b.client.PutObject(ctx, b.bucket, name, bytes.NewReader(want), int64(len(want)), minio.PutObjectOptions{}); err != nil {
		return fmt.Errorf("write an object: %w", plain(err))
	}
	o := &object{b: b, name: name, size: int64(len(want))}
	got, err := io.ReadAll(o)
	if err != nil {
		return fmt.Errorf("read an object: %w", plain(err))
	}
	if !bytes.Equal(got, want) {
		return errors.New("an object that was written reads otherwise")
	}
	if err := b.client.RemoveObject(ctx, b.bucket, name, minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("remove an object: %w", plain(err))
	}
	return nil
}

// plain says in words of ours what an answer of the store means, as far as somebody can do something about it.
func plain(err error) error {
	var answer minio.ErrorResponse
	errors.As(err, &answer)
	switch {
	case answer.Code == "NoSuchKey" || answer.Code == "NotFound":
		return fs.ErrNotExist
	case answer.Code == "NoSuchBucket":
		return fmt.Errorf("there is no such bucket, create it first: %w", err)
	case answer.Code == "RequestTimeTooSkewed":
		return fmt.Errorf("the clock of this machine or of the store is wrong: %w", err)
	case answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("the store refuses the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws): %w", err)
	}
	return err
}

// Close ends the work in the background. What is in the spool is moved by the next server.
func (b *Bucket) Close() error {
	b.stop()
	b.ended.Wait()
	return b.spool.Close()
}

// Put implements Store.
func (b *Bucket) Put(ctx context.Context, key string, r io.Reader) (int64, error) {
	if err := CheckKey(key); err != nil {
		return 0, err
	}
	size, err := b.put(ctx, b.prefix+key, r)
	if err != nil {
		return 0, fmt.Errorf("put blob %s: %w", key, plain(err))
	}
	return size, b.spool.Delete(key) // it would hide the new one
}

func (b *Bucket) put(ctx context.Context, name string, r io.Reader) (int64, error) {
	head, err := io.ReadAll(io.LimitReader(contextReader{ctx, r}, small))
	if err != nil {
		return 0, err
	}
	var body io.Reader = bytes.NewReader(head)
	size := int64(len(head))
	if size == small {
		counted := &counter{r: contextReader{ctx, r}}
		body, size = io.MultiReader(body, counted), -1
		_, err = b.client.PutObject(ctx, b.bucket, name, body, size, minio.PutObjectOptions{PartSize: partSize})
		return small + counted.n, err
	}
	_, err = b.client.PutObject(ctx, b.bucket, name, body, size, minio.PutObjectOptions{})
	return size, err
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// Concat implements Store. The bytes go through this machine: S3 puts no parts together that are small.
func (b *Bucket) Concat(key string, parts ...string) (int64, error) {
	defer func() {
		for _, p := range parts {
			_ = b.Delete(p) // what resists is in nobody's way
		}
	}()
	if err := CheckKey(key); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), moveFor)
	defer cancel()
	readers := make([]io.Reader, len(parts))
	for i, p := range parts {
		f, err := b.Open(p)
		if err != nil {
			return 0, fmt.Errorf("put blob %s together: %w", key, err)
		}
		defer f.Close()
		readers[i] = f
	}
	size, err := b.Put(ctx, key, io.MultiReader(readers...))
	if err != nil {
		return 0, fmt.Errorf("put blob %s together: %w", key, err)
	}
	return size, nil
}

// Open implements Store.
func (b *Bucket) Open(key string) (File, error) {
	f, err := b.spool.Open(key)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	o, err := b.object(b.prefix + key)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", key, err)
	}
	return o, nil
}

// object opens an object.
func (b *Bucket) object(name string) (*object, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	defer cancel()
	info, err := b.client.StatObject(ctx, b.bucket, name, minio.StatObjectOptions{})
	if err != nil {
		return nil, plain(err)
	}
	return &object{b: b, name: name, size: info.Size, etag: info.ETag, modified: info.LastModified}, nil
}

// Stat implements Store.
func (b *Bucket) Stat(key string) (Info, error) {
	info, err := b.spool.Stat(key)
	if !errors.Is(err, fs.ErrNotExist) {
		return info, err
	}
	o, err := b.object(b.prefix + key)
	if err != nil {
		return Info{}, fmt.Errorf("stat blob %s: %w", key, err)
	}
	return Info{Key: key, Size: o.size, Modified: o.modified}, nil
}

// List implements Store.
func (b *Bucket) List(prefix string) ([]Info, error) {
	list, err := b.spool.List(prefix)
	if err != nil {
		return nil, err
	}
	spooled := map[string]bool{}
	for _, info := range list {
		spooled[info.Key] = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), moveFor)
	defer cancel()
	for info := range b.client.ListObjects(ctx, b.bucket, minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true}) {
		if info.Err != nil {
			return nil, fmt.Errorf("list blobs %s: %w", prefix, plain(info.Err))
		}
		key := strings.TrimPrefix(info.Key, b.prefix)
		if strings.HasPrefix(key, ".") || strings.HasSuffix(key, "/") || spooled[key] {
			continue
		}
		list = append(list, Info{Key: key, Size: info.Size, Modified: info.LastModified})
	}
	slices.SortFunc(list, func(x, y Info) int { return strings.Compare(x.Key, y.Key) })
	return list, nil
}

// Delete implements Store.
func (b *Bucket) Delete(key string) error {
	if err := b.spool.Delete(key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	defer cancel()
	for _, name := range []string{key, timesDir + "/" + key} {
		if err := b.client.RemoveObject(ctx, b.bucket, b.prefix+name, minio.RemoveObjectOptions{}); err != nil && !errors.Is(plain(err), fs.ErrNotExist) {
			return fmt.Errorf("delete blob %s: %w", key, plain(err))
		}
	}
	return nil
}
