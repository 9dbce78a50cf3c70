package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/api"
	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/store"
)

const (
	databaseName = "penstock.db"
	keysName     = "keys.json"
)

// backedUp are the directories of a server that nothing else can make again.
var backedUp = []string{"repositories", "blobs"}

func backupCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a server's data into a file, while it runs or not",
		Long: `Write a server's database, repositories, logs and artifacts into a file (a tar, compressed with zstd). The server may run
meanwhile: the file has the database as it was at one moment, and of the rest what was there then and perhaps a little more.

The keys are not in it, or whoever has the file could open the secrets: keep ` + keysName + ` of the data directory elsewhere. Caches and
images are not in it: they come again.`,
		Example: `  penstock backup /backup/penstock-$(date +%F).tar.zst
  penstock restore /backup/penstock-2026-11-01.tar.zst --data /var/lib/penstock --keys /safe/keys.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := dataOf(data)
			if err != nil {
				return err
			}
			return backup(c.Context(), dir, args[0])
		},
	}
	c.Flags().StringVar(&data, "data", "", "the server's data `DIR` (default: as for penstock serve)")
	return c
}

func restoreCommand() *cobra.Command {
	var data, keys string
	c := &cobra.Command{
		Use: "restore FILE", Short: "Make a server's data directory of a backup", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			dir, err := dataOf(data)
			if err != nil {
				return err
			}
			return restore(c.Context(), dir, args[0], keys)
		},
	}
	c.Flags().StringVar(&data, "data", "", "an empty `DIR`, or one that is not there (default: as for penstock serve)")
	c.Flags().StringVar(&keys, "keys", "", "the `FILE` with the server's keys, which the backup does not have")
	_ = c.MarkFlagRequired("keys")
	return c
}

func dataOf(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	return serverDir()
}

// backup writes the file whole or not at all.
func backup(ctx context.Context, dir, to string) (err error) {
	st, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, databaseName)+"?mode=ro")
	if err != nil {
		return withHint(err, "name the server's directory with --data; a PostgreSQL database is backed up by pg_dump, and the rest by copying the directory")
	}
	defer st.Close()
	temp, err := os.MkdirTemp(filepath.Dir(to), ".backup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	copied := filepath.Join(temp, databaseName)
	if err := st.Backup(ctx, copied); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(temp, "file"), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	z, err := zstd.NewWriter(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	if err := pack(w, copied, databaseName); err != nil {
		return err
	}
	for _, name := range backedUp {
		if err := pack(w, filepath.Join(dir, name), name); err != nil {
			return err
		}
	}
	if err := errors.Join(w.Close(), z.Close(), file.Sync()); err != nil {
		return err
	}
	return os.Rename(file.Name(), to)
}

// pack adds a file, or a directory with all that is in it. What goes while it is read is left out.
func pack(w *tar.Writer, path, name string) error {
	return filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		to := filepath.ToSlash(filepath.Join(name, inside))
		if d.IsDir() {
			return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: to + "/", Mode: 0o700})
		}
		if !d.Type().IsRegular() {
			return nil // locks and sockets
		}
		return packFile(w, p, to)
	})
}

// packFile adds a file as long as it is now: a log may grow.
func packFile(w *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()})
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, f, info.Size())
	return err
}

// opens says whether the keys of a directory open what its database has sealed; name is what they are called.
func opens(ctx context.Context, dir, name string) error {
	keys, err := auth.ReadKeyring(filepath.Join(dir, keysName))
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, databaseName)+"?mode=ro")
	if err != nil {
		return err
	}
	defer st.Close()
	sealed, err := api.SealedBy(ctx, st, keys)
	for id, n := range sealed {
		if !slices.ContainsFunc(keys.Keys(), func(k auth.KeyInfo) bool { return k.ID == id }) {
			err = withHint(fmt.Errorf("%s has not the key %s, which has sealed %d of the backup", name, id, n), "it must be keys.json as the server had it at the time of the backup, or later")
		}
	}
	return err
}

// restore makes the directory aside and puts it in place whole.
func restore(ctx context.Context, dir, from, keys string) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return withHint(fmt.Errorf("%s is not empty", dir), "restore into a new directory, and put it in place by hand")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o700); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".restore-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	if err := unpackBackup(temp, f); err != nil {
		return fmt.Errorf("restore %s: %w", from, err)
	}
	if _, err := os.Stat(filepath.Join(temp, databaseName)); err != nil {
		return fmt.Errorf("restore %s: it has no database: it is no backup of penstock", from)
	}
	text, err := os.ReadFile(keys)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(temp, keysName), text, 0o600); err != nil {
		return err
	}
	if err := opens(ctx, temp, keys); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(temp, dir)
}

// unpackBackup writes the files of a backup below a directory; anything else in it is an error.
func unpackBackup(dir string, from io.Reader) error {
	z, err := zstd.NewReader(from)
	if err != nil {
		return err
	}
	defer z.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.FromSlash(strings.TrimSuffix(h.Name, "/"))
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%q leads out of the directory", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o700)
		case tar.TypeReg:
			err = unpackFile(root, name, r, fs.FileMode(h.Mode)&0o700)
		default:
			err = fmt.Errorf("%q is neither a file nor a directory", h.Name)
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, name string, r io.Reader, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}
