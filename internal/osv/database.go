package osv

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxAdvisories bounds the advisories of an archive: npm has some 300,000.
const maxAdvisories = 5_000_000

// Database is a directory of archives. It may be used by any number of goroutines.
type Database struct{ dir string }

// Open takes a directory that has an archive of one ecosystem or more. The error wraps fs.ErrNotExist if it has none.
func Open(dir string) (*Database, error) {
	d := &Database{dir}
	if len(d.Ecosystems()) == 0 {
		return nil, fmt.Errorf("no database of vulnerabilities in %s: %w", dir, fs.ErrNotExist)
	}
	return d, nil
}

// Ecosystems are those whose archives are there.
func (d *Database) Ecosystems() []string {
	var have []string
	for _, e := range []string{NPM, PyPI, Go} {
		if info, err := os.Stat(d.archive(e)); err == nil && info.Mode().IsRegular() {
			have = append(have, e)
		}
	}
	return have
}

// Made is when the oldest of the archives was written: what came later is not known.
func (d *Database) Made() time.Time {
	var oldest time.Time
	for _, e := range d.Ecosystems() {
		if info, err := os.Stat(d.archive(e)); err == nil && (oldest.IsZero() || info.ModTime().Before(oldest)) {
			oldest = info.ModTime()
		}
	}
	return oldest
}

func (d *Database) archive(ecosystem string) string {
	return filepath.Join(d.dir, ecosystem, "all.zip")
}

// Find gives the vulnerabilities of packages, in their order. Packages of an ecosystem whose archive is not there have
// none that are known.
func (d *Database) Find(ctx context.Context, packages []Package) ([]Finding, error) {
	var found []Finding
	for _, e := range d.Ecosystems() {
		of := slices.DeleteFunc(slices.Clone(packages), func(p Package) bool { return p.Ecosystem != e })
		if len(of) == 0 {
			continue
		}
		more, err := d.find(ctx, e, of)
		if err != nil {
			return nil, fmt.Errorf("search the vulnerabilities of %s: %w", e, err)
		}
		found = append(found, more...)
	}
	return found, nil
}

func (d *Database) find(ctx context.Context, ecosystem string, packages []Package) ([]Finding, error) {
	z, err := zip.OpenReader(d.archive(ecosystem))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	about, err := d.index(ctx, ecosystem, &z.Reader)
	if err != nil {
		return nil, err
	}
	read := map[int]*advisory{}
	var found []Finding
	for _, p := range packages {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		seen := map[string]bool{} // one vulnerability has advisories of several databases
		for _, n := range about[canonical(ecosystem, p.Name)] {
			if n < 0 || n >= len(z.File) {
				return nil, errors.New("the index does not fit the archive: remove it")
			}
			if read[n] == nil {
				if read[n], err = openAdvisory(z.File[n]); err != nil {
					return nil, err
				}
			}
			if f, ok := read[n].hits(p); ok && !seen[f.ID] {
				seen[f.ID] = true
				found = append(found, f)
			}
		}
	}
	return found, nil
}

func openAdvisory(f *zip.File) (*advisory, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	a, err := readAdvisory(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	return a, nil
}

// index says which files of an archive are about a package. It is made once for each state of the archive and kept
// beside it, where that may be written.
type index struct {
	Size     int64
	Modified time.Time
	About    map[string][]int // by canonical name, places in the archive
}

func (d *Database) index(ctx context.Context, ecosystem string, z *zip.Reader) (map[string][]int, error) {
	info, err := os.Stat(d.archive(ecosystem))
	if err != nil {
		return nil, err
	}
	name := d.archive(ecosystem) + ".index"
	var kept index
	if text, err := os.ReadFile(name); err == nil && json.Unmarshal(text, &kept) == nil && kept.Size == info.Size() && kept.Modified.Equal(info.ModTime()) {
		return kept.About, nil
	}
	kept = index{info.Size(), info.ModTime(), map[string][]int{}}
	for n, f := range z.File {
		if n >= maxAdvisories {
			return nil, fmt.Errorf("more than %d advisories", maxAdvisories)
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if !strings.HasSuffix(f.Name, ".json") {
			continue
		}
		a, err := openAdvisory(f)
		if err != nil {
			return nil, err
		}
		for _, of := range a.Affected {
			key := canonical(ecosystem, of.Package.Name)
			if list := kept.About[key]; strings.EqualFold(of.Package.Ecosystem, ecosystem) && (len(list) == 0 || list[len(list)-1] != n) {
				kept.About[key] = append(list, n)
			}
		}
	}
	_ = kept.save(name) // the next search makes it again
	return kept.About, nil
}

func (i *index) save(name string) error {
	text, err := json.Marshal(i)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(name), ".index-")
	if err != nil {
		return err
	}
	_, err = temp.Write(text)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		os.Remove(temp.Name())
	}
	return err
}
