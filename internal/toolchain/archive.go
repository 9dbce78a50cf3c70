package toolchain

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Limits of what an archive may hold.
const (
	maxEntries  = 200_000
	maxUnpacked = 4 << 30
)

// archive is the tar archive that is being made of others: everything below one directory, owned by root.
type archive struct {
	prefix  string
	zip     *zstd.Encoder
	tar     *tar.Writer
	entries int
	bytes   int64
}

func newArchive(w io.Writer, prefix string) (*archive, error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	return &archive{prefix: prefix, zip: z, tar: tar.NewWriter(z)}, nil
}

// close ends the archive. A complete one gets the mark by which tool caches tell that nothing is missing.
func (a *archive) close(complete bool) error {
	if complete {
		if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: a.prefix + ".complete", Mode: 0o644}); err != nil {
			return errors.Join(err, a.zip.Close())
		}
	}
	return errors.Join(a.tar.Close(), a.zip.Close())
}

var (
	errOutside  = errors.New("the name leads out of the archive")
	errTooLarge = errors.New("the archive is larger than any version of this tool")
)

// add takes an entry over. name and a hard link's target are relative to the archive's directory.
func (a *archive) add(h tar.Header, name string, content io.Reader) error {
	if name = path.Clean(name); !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%.100q: %w", name, errOutside)
	}
	if a.entries++; a.entries > maxEntries {
		return errTooLarge
	}
	if a.bytes += h.Size; h.Size < 0 || a.bytes > maxUnpacked {
		return errTooLarge
	}
	out := tar.Header{Typeflag: h.Typeflag, Name: path.Join(a.prefix, name), Mode: h.Mode&0o755 | 0o644, Size: h.Size, ModTime: h.ModTime, Format: tar.FormatPAX}
	switch h.Typeflag {
	case tar.TypeDir:
		out.Mode, out.Size = 0o755, 0
	case tar.TypeReg:
	case tar.TypeSymlink:
		// Where it leads is checked when it is unpacked: nothing is written through it.
		out.Linkname, out.Size = h.Linkname, 0
	case tar.TypeLink:
		if !filepath.IsLocal(h.Linkname) {
			return fmt.Errorf("%.100q: %w", h.Linkname, errOutside)
		}
		out.Linkname, out.Size = path.Join(a.prefix, h.Linkname), 0
	default:
		return fmt.Errorf("%.100q is neither a file, a directory nor a link", name)
	}
	if err := a.tar.WriteHeader(&out); err != nil || out.Size == 0 {
		return err
	}
	_, err := io.CopyN(a.tar, content, out.Size)
	return err
}

// link adds a symbolic link.
func (a *archive) link(name, target string) error {
	return a.add(tar.Header{Typeflag: tar.TypeSymlink, Linkname: target}, name, nil)
}

// addTar takes a tar archive over, gzipped, to the directory at; inner says what becomes of names.
func (a *archive) addTar(file, at string, inner func(name string) (string, bool)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, ok := inner(h.Name)
		if !ok {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			target, ok := inner(h.Linkname)
			if !ok {
				return fmt.Errorf("unpack %s: %.100q: %w", filepath.Base(file), h.Linkname, errOutside)
			}
			h.Linkname = path.Join(at, target)
		}
		if at != "" && !filepath.IsLocal(name) {
			return fmt.Errorf("unpack %s: %.100q: %w", filepath.Base(file), h.Name, errOutside)
		}
		if err := a.add(*h, path.Join(at, name), r); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
		}
	}
}

// below takes the first directory off a name; ok is false for that directory itself.
func below(name string) (rest string, ok bool) {
	_, rest, _ = strings.Cut(strings.TrimPrefix(name, "./"), "/")
	return rest, strings.Trim(rest, "/") != ""
}

// asItIs leaves a name as it is.
func asItIs(name string) (rest string, ok bool) { return name, path.Clean(name) != "." }

// addZip takes over what is below a directory of a zip archive. A zip of a Go module has no modes: mode gives them. rename
// may give a file a second name.
func (a *archive) addZip(file, dir string, mode func(name string) int64, again func(name string) string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
	}
	defer z.Close()
	for _, f := range z.File {
		name, ok := strings.CutPrefix(f.Name, dir+"/")
		if !ok || name == "" || strings.HasSuffix(name, "/") {
			continue
		}
		names := []string{name}
		if other := again(name); other != "" {
			names = append(names, other)
		}
		for _, n := range names {
			if err := a.addZipped(f, n, mode(n)); err != nil {
				return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
			}
		}
	}
	return nil
}

func (a *archive) addZipped(f *zip.File, name string, mode int64) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if f.UncompressedSize64 > maxUnpacked {
		return errTooLarge
	}
	return a.add(tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: int64(f.UncompressedSize64), ModTime: f.Modified}, name, r)
}

// download gets a file of a server. sum is its SHA-256, empty if nobody knows it.
func (s *Source) download(ctx context.Context, url, sum, name string) error {
	body, err := s.open(ctx, url)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), io.LimitReader(body, maxArchive+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	if n > maxArchive {
		return errTooLarge
	}
	if got := hex.EncodeToString(hash.Sum(nil)); sum != "" && !strings.EqualFold(got, sum) {
		return fmt.Errorf("GET %s: the file has the SHA-256 %s and not %s: it is not used", url, got, sum)
	}
	return nil
}

// Open reads an archive that Fetch gave, as a tar stream.
func Open(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &opened{z, f}, nil
}

type opened struct {
	*zstd.Decoder
	f fs.File
}

func (o *opened) Close() error {
	o.Decoder.Close()
	return o.f.Close()
}
