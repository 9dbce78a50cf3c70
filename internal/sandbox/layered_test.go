//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
)

// openHost opens a machine that is closed with the test.
func openHost(t *testing.T, h *Host, spec Spec) *machine {
	t.Helper()
	return suite{provider: h}.open(t, spec).(*machine)
}

func TestLayeredOverlay(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join(t.TempDir(), `odd, name:with\all`)
	tree := map[string]string{"kept": "old\n", "secret": "x", "sub/also": "y", "sub/shown": "z\n", "sub/deep/er": "w", "gone/with": "v"}
	writeTree(t, dir, tree)
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	if err := m.Overlay(t.Context(), m.Info().Workspace, dir, []string{"secret", "missing/too", "sub/also", "sub/deep", "gone", "gone/with"}); err != nil {
		t.Fatal(err)
	}
	expect(t, m, "find . | sort; cat kept sub/shown", ".\n./kept\n./sub\n./sub/shown\nold\nz\n")
	expect(t, m, "echo new > kept; rm sub/shown; mkdir gone sub/more; touch made secret; ls -A; cat secret", "gone\nkept\nmade\nsecret\nsub\n")
	sameTree(t, dir, tree)
	for _, bad := range []string{"../x", "/etc", ".."} {
		if err := m.Overlay(t.Context(), "/somewhere", dir, []string{bad}); err == nil {
			t.Errorf("hide %s: accepted", bad)
		}
	}
	for _, at := range []string{"/", "relative", ""} {
		if err := m.Overlay(t.Context(), at, dir, nil); err == nil {
			t.Errorf("overlay at %q: accepted", at)
		}
	}
	if err := m.Overlay(t.Context(), "/x", dir+"/missing", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("overlay what is not there: %v", err)
	}
}

func writeTree(t *testing.T, dir string, tree map[string]string) {
	t.Helper()
	for name, data := range tree {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// sameTree checks that a directory of the host holds tree and nothing else.
func sameTree(t *testing.T, dir string, tree map[string]string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		n++
		rel, _ := filepath.Rel(dir, name)
		if data, err := os.ReadFile(name); err != nil || string(data) != tree[rel] {
			t.Errorf("%s: %q, %v, want %q", rel, data, err, tree[rel])
		}
		return nil
	})
	if err != nil || n != len(tree) {
		t.Errorf("%d files, %v, want %d", n, err, len(tree))
	}
}

func TestLayeredOverlayOfATreeThatHoldsTheStore(t *testing.T) {
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"file": "x\n"})
	store, err := layer.Open(filepath.Join(dir, "cache", "layers"))
	if err != nil {
		t.Fatal(err)
	}
	h := hostOn(t, store)
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	if err := m.Overlay(t.Context(), m.Info().Workspace, dir, nil); err != nil {
		t.Fatal(err)
	}
	expect(t, m, "find . | sort; touch new; mkdir cache/other", ".\n./cache\n./file\n")
	id := snap(t, m)
	m = openHost(t, h, Spec{Name: "two", Repo: "repo", From: id})
	expect(t, m, "find . | sort", ".\n./cache\n./cache/other\n./file\n./new\n")
}

func snap(t *testing.T, m *machine) layer.ID {
	t.Helper()
	id, err := m.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestLayeredMountAndCapture(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	home := m.Info().Home
	at := path.Join(home, ".cache", "tool")
	if err := m.Mount(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	expect(t, m, "cd ~/.cache/tool && mkdir d && echo one > d/a && echo gone > b && ln a d/x 2>/dev/null; ln d/a d/twin; chmod 750 d; ls", "b\nd\n")
	one := capture(t, m, at)
	expect(t, m, "cd ~/.cache/tool && echo later > d/a; rm b; cat d/twin", "one\n")
	two := capture(t, m, at)
	for i, want := range []string{"one\ngone\n750\n", "later\n750\n"} {
		id := []layer.ID{one, two}[i]
		for _, stack := range [][]layer.ID{{id}, {one, id}} {
			other := openHost(t, h, Spec{Name: "other", Repo: "repo"})
			if err := other.Mount(t.Context(), "/opt/tool", stack...); err != nil {
				t.Fatal(err)
			}
			expect(t, other, "cd /opt/tool; cat d/a; cat b 2>/dev/null; stat -c %a d; echo spoilt > d/a; rm -f b", want)
			other.Close(t.Context())
		}
	}
	// What is there already stays visible beneath, and what is mounted hides no writes of others.
	expect(t, m, "mkdir -p ~/mine/d; echo mine > ~/mine/c; echo old > ~/mine/d/a; echo ok", "ok\n")
	if err := m.Mount(t.Context(), home+"/mine", one); err != nil {
		t.Fatal(err)
	}
	expect(t, m, "cd ~/mine; cat c d/a", "mine\none\n")
	both := capture(t, m, home+"/mine")
	other := openHost(t, h, Spec{Name: "other", Repo: "repo"})
	if err := other.Mount(t.Context(), "/x", both); err != nil {
		t.Fatal(err)
	}
	expect(t, other, "cd /x; cat c d/a", "mine\none\n")
	if err := other.Mount(t.Context(), "/y", "0123456789abcdef0123"); !errors.Is(err, layer.ErrNotExist) {
		t.Errorf("mount what is not there: %v", err)
	}
	if _, err := other.Capture(t.Context(), "/no/such"); err == nil {
		t.Error("captured what is not there")
	}
}

func capture(t *testing.T, m *machine, at string) layer.ID {
	t.Helper()
	id, err := m.Capture(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestLayeredCaptureOfOthers takes what is no mount, as the parts of the frozen disk, and a copy of what a process may
// still be writing to.
func TestLayeredCaptureOfOthers(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	expect(t, m, "mkdir -p ~/t/ro; cd ~/t; echo x > f; ln f g; ln -s /etc/hostname l; mkfifo p; touch -d @1600000000 ro; chmod 555 ro; echo ok", "ok\n")
	id := capture(t, m, m.Info().Home+"/t")
	if err := m.Mount(t.Context(), "/live"); err != nil {
		t.Fatal(err)
	}
	expect(t, m, "(while sleep 0.01; do echo more >> /live/log; done) >/dev/null 2>&1 & echo first > /live/file; echo ok", "ok\n")
	busy := capture(t, m, "/live")
	if _, err := m.Snapshot(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("snapshot while a process is alive: %v", err)
	}
	expect(t, m, "echo second > /live/file; echo ok", "ok\n")
	other := openHost(t, h, Spec{Name: "other", Repo: "repo"})
	for at, id := range map[string]layer.ID{"/t": id, "/live": busy} {
		if err := other.Mount(t.Context(), at, id); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, other, "cd /t; ls; cat g; stat -c %h f; readlink l; stat -c '%a %Y' ro; cat /live/file", "f\ng\nl\np\nro\nx\n2\n/etc/hostname\n555 1600000000\nfirst\n")
}

func TestLayeredSnapshots(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a": "a\n", "b": "b\n"})
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	if err := m.Overlay(t.Context(), m.Info().Workspace, dir, []string{"b"}); err != nil {
		t.Fatal(err)
	}
	if err := m.Mount(t.Context(), m.Info().Home+"/.cache/x"); err != nil {
		t.Fatal(err)
	}
	first := snap(t, m)
	if again := snap(t, m); again != first {
		t.Errorf("nothing changed, yet %s became %s", first, again)
	}
	// Every part of the disk: the root, the host's directories, an overlay, a mount, the runner's files, a mount of the
	// job's own.
	expect(t, m, `set -e; mkdir /data; echo 1 > /data/f; echo 1 > /tmp/f; echo 1 > /usr/local/f; echo 1 > /etc/f; rm a; echo 1 > c; echo 1 > ~/f
		echo 1 > ~/.cache/x/f; mkdir -p $TMP/d; echo 1 > $TMP/d/f; echo 1 > $FILES/f; mkdir /own; mount -t tmpfs none /own; echo 1 > /own/f; echo ok`, "ok\n")
	second := snap(t, m)
	if second == first {
		t.Error("a changed disk kept its ID")
	}
	files := `cat /data/f /tmp/f /usr/local/f /etc/f c ~/f ~/.cache/x/f $TMP/d/f; ls`
	expect(t, m, files+"; cat /own/f", strings.Repeat("1\n", 8)+"c\n1\n")
	expect(t, m, `for f in /data/f /tmp/f /usr/local/f /etc/f c ~/f ~/.cache/x/f $TMP/d/f; do echo 2 > $f; done; rm -rf /data; echo ok`, "ok\n")
	third := snap(t, m)
	m.Close(t.Context())

	old := openHost(t, h, Spec{Name: "old", Repo: "repo", From: first})
	expect(t, old, `ls; cat a; ls -A $TMP ~/.cache/x; ls -d /data /tmp/f /usr/local/f /etc/f 2>/dev/null; true`, "a\na\n"+old.Info().Home+"/.cache/x:\n\n"+old.Info().Temp+":\n")
	old = openHost(t, h, Spec{Name: "old", Repo: "repo", From: second})
	expect(t, old, files+"; ls -A $FILES", strings.Repeat("1\n", 8)+"c\n")
	old = openHost(t, h, Spec{Name: "old", Repo: "repo", From: third})
	expect(t, old, "exec 2>/dev/null; "+files, strings.Repeat("2\n", 7)+"c\n")
	// The working tree is the lower as it is now; hidden paths stay hidden.
	writeTree(t, dir, map[string]string{"new": "new\n", "b": "still hidden\n"})
	old = openHost(t, h, Spec{Name: "old", Repo: "repo", From: second})
	expect(t, old, "ls", "c\nnew\n")
	// Another process may go on from it, and take snapshots of its own.
	expect(t, old, "echo 4 > c; echo ok", "ok\n")
	fourth := snap(t, old)
	old = openHost(t, h, Spec{Name: "old", Repo: "repo", From: fourth})
	expect(t, old, "cat c /etc/f", "4\n1\n")
}

// TestLayeredManySnapshots takes more than lie on top of one another unflattened.
func TestLayeredManySnapshots(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	expect(t, m, "mkdir -p ~/d/gone ~/d/file; echo x > ~/d/gone/x; echo base > ~/d/kept; rm /usr/bin/env; echo ok", "ok\n")
	var ids []layer.ID
	for i := range flattenAt + 10 {
		expect(t, m, fmt.Sprintf("cd ~/d; echo %d > last; echo %[1]d > f%[1]d; rm -f f%d; touch /usr/local/n%[1]d; rm -rf gone; [ %[1]d = 20 ] && { mkdir gone; echo y > gone/y; rmdir file; touch file; }; true", i, i-2), "")
		ids = append(ids, snap(t, m))
	}
	if n := len(m.places[0].layers); n >= flattenAt {
		t.Errorf("%d layers", n)
	}
	for _, i := range []int{3, 20, flattenAt - 2, flattenAt + 9} {
		old := openHost(t, h, Spec{Name: "old", Repo: "repo", From: ids[i]})
		gone := "ls: cannot access 'gone': No such file or directory\n"
		kind := "directory\n"
		if i == 20 {
			gone = "y\n"
		}
		if i >= 20 {
			kind = "regular empty file\n"
		}
		expect(t, old, "cd ~/d; cat last kept; ls f*[0-9]; ls gone; stat -c %F file; ls /usr/local/n* | wc -l; ls /usr/bin/env 2>/dev/null; true",
			fmt.Sprintf("%d\nbase\nf%d\nf%[1]d\n", i, i-1)+gone+kind+fmt.Sprintf("%d\n", i+1))
		old.Close(t.Context())
	}
}

// TestLayeredSnapshotOfOddDirectories covers changes that are in no file.
func TestLayeredSnapshotOfOddDirectories(t *testing.T) {
	h := newHost(t)
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	expect(t, m, "chmod 700 /opt; mkdir -m 0 ~/closed; mkdir -m 1777 /opt/sticky; touch /opt/x; echo ok", "ok\n")
	snap(t, m)
	expect(t, m, "stat -c %a /opt; touch /opt/y", "700\n")
	id := snap(t, m)
	old := openHost(t, h, Spec{Name: "old", Repo: "repo", From: id})
	expect(t, old, "stat -c %a /opt ~/closed /opt/sticky", "700\n0\n1777\n")
}

// TestLayeredStoresAreKeptApart refuses layers whose owners mean something else here.
func TestLayeredStoresAreKeptApart(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join(h.work.Dir(), "x")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	id, err := h.layers.Add(dir, layer.Layer{Owner: h.owner + 1})
	if err != nil {
		t.Fatal(err)
	}
	m := openHost(t, h, Spec{Name: "one", Repo: "repo"})
	if err := m.Mount(t.Context(), "/x", id); err == nil {
		t.Error("mounted another user's layer")
	}
	if _, err := h.Open(t.Context(), Spec{Name: "one", Repo: "repo", From: id}); err == nil {
		t.Error("began with what is no snapshot")
	}
}

// TestListings changes directories whose listings are remembered.
func TestListings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "listings")
	top := filepath.Join(dir, "top")
	writeTree(t, top, map[string]string{"public": "", "private": "", "sub/x": "", "closed/x": ""})
	for name, mode := range map[string]os.FileMode{"private": 0o600, "public": 0o644, "sub": 0o755, "closed": 0o711} {
		if err := os.Chmod(filepath.Join(top, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	look := func() string {
		l := openListings(file)
		defer l.save()
		found := l.of(top)
		slices.Sort(found.closed)
		return fmt.Sprint(found.closed, found.dirs)
	}
	if got := look(); got != "[closed private] [sub]" {
		t.Errorf("first: %s", got)
	}
	l := openListings(file)
	if l.of(top); l.changed {
		t.Error("an unchanged directory was looked at again")
	}
	writeTree(t, top, map[string]string{"new": ""})
	if err := os.Chmod(filepath.Join(top, "new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := look(); got != "[closed new private] [sub]" {
		t.Errorf("after a file came: %s", got)
	}
	l = openListings(file)
	l.since, l.changed = time.Now().Add(-2*listingsAge), true
	l.save()
	if l = openListings(file); len(l.known) > 0 {
		t.Error("old listings are believed")
	}
	for _, bad := range []string{"", "x", "1\n2\n", fmt.Sprintf("%d\n\n\t\nx\ty\n5\n7\t/a\t/\n", time.Now().Unix())} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := look(); got != "[closed new private] [sub]" {
			t.Errorf("with %q: %s", bad, got)
		}
	}
}
