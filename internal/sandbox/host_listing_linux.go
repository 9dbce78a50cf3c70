package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// listings remember what was found in the host's directories the last time: looking at each of their files takes
// longer than all else that a machine needs. A directory whose files came, went or were replaced is looked at again.
// What is made private without that is seen when the listings have become too old.
type listings struct {
	file    string
	since   time.Time
	known   map[string]*listing
	changed bool
}

// listing is what matters of one directory.
type listing struct {
	changed int64    // its own time of change, nanoseconds
	dirs    []string // names of directories that everyone may enter
	closed  []string // names of what not everyone may read
}

// listingsAge is how long listings are believed.
const listingsAge = time.Hour

// openListings reads what is remembered; what can not be read or is too old is forgotten.
func openListings(file string) *listings {
	l := &listings{file: file, since: time.Now(), known: map[string]*listing{}}
	f, err := os.Open(file)
	if err != nil {
		return l
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return l
	}
	since, err := strconv.ParseInt(lines.Text(), 10, 64)
	if age := time.Since(time.Unix(since, 0)); err != nil || age < 0 || age > listingsAge {
		return l
	}
	l.since = time.Unix(since, 0)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		changed, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil || len(fields) < 2 {
			continue
		}
		found := &listing{changed: changed}
		for _, name := range fields[2:] {
			if closed, ok := strings.CutPrefix(name, "/"); ok {
				found.closed = append(found.closed, closed)
			} else {
				found.dirs = append(found.dirs, name)
			}
		}
		l.known[fields[1]] = found
	}
	return l
}

// save keeps the listings if any has changed. What goes wrong costs time only.
func (l *listings) save() {
	if !l.changed {
		return
	}
	var b strings.Builder
	fmt.Fprintln(&b, l.since.Unix())
	for dir, found := range l.known {
		line := fmt.Sprintf("%d\t%s", found.changed, dir)
		for _, name := range found.dirs {
			line += "\t" + name
		}
		for _, name := range found.closed {
			line += "\t/" + name
		}
		if strings.Count(line, "\t") == 1+len(found.dirs)+len(found.closed) && !strings.Contains(line, "\n") {
			b.WriteString(line + "\n")
		}
	}
	if os.MkdirAll(filepath.Dir(l.file), 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(l.file), ".listings-*")
	if err != nil {
		return
	}
	_, err = f.WriteString(b.String())
	if f.Close() != nil || err != nil || os.Rename(f.Name(), l.file) != nil {
		os.Remove(f.Name())
	}
}

// of gives the listing of a directory; nil if it is not there, or not for this user.
func (l *listings) of(dir string) *listing {
	var info unix.Stat_t
	if unix.Lstat(dir, &info) != nil {
		return nil
	}
	changed := info.Ctim.Nano()
	if found := l.known[dir]; found != nil && found.changed == changed {
		return found
	}
	found, err := list(dir)
	if err != nil {
		return nil
	}
	found.changed = changed
	l.known[dir], l.changed = found, true
	return found
}

// list looks at all that is in a directory.
func list(dir string) (*listing, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	found := &listing{}
	for _, e := range entries {
		if !e.IsDir() && !e.Type().IsRegular() {
			continue
		}
		var info unix.Stat_t
		if unix.Fstatat(int(d.Fd()), e.Name(), &info, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue // gone meanwhile
		}
		switch {
		case info.Mode&0o004 == 0 || e.IsDir() && info.Mode&0o001 == 0:
			found.closed = append(found.closed, e.Name())
		case e.IsDir():
			found.dirs = append(found.dirs, e.Name())
		}
	}
	return found, nil
}
