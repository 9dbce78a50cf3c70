package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// cached runs a job with actions/cache: restore, a script, save.
func (j *job) cached(with map[string]string, script string) (outputs map[string]string, log string) {
	j.t.Helper()
	s, log := j.must("actions/cache@v4", with)
	j.sh(script)
	return s.Outputs, log + j.post("actions/cache@v4", s)
}

// next is another job with the same host.
func (j *job) next() *job {
	j.t.Helper()
	n := newJob(j.t, j.box.Info().Provider)
	n.host, n.github = j.host, j.github
	return n
}

func TestCacheSavesAndRestores(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		with := map[string]string{"path": "~/.store\nnode_modules\nfile.txt", "key": "k-1"}
		out, log := j.cached(with, `mkdir -p ~/.store/deep node_modules/a/bin; echo s >~/.store/deep/s; printf '#!' >node_modules/a/bin/x; chmod 755 node_modules/a/bin/x; ln -s a/bin node_modules/.bin; echo f >file.txt`)
		contains(t, log, "Cache not found for input keys: k-1\n", "Cache saved with key: k-1\n")
		if _, ok := out["cache-hit"]; ok || out["cache-primary-key"] != "k-1" {
			t.Errorf("outputs of a miss: %v", out)
		}
		j = j.next()
		s, log := j.must("actions/cache@v4", with)
		contains(t, log, "Cache hit for: k-1\n", "Cache restored successfully\n", "Cache restored from key: k-1\n")
		if s.Outputs["cache-hit"] != "true" || s.Outputs["cache-matched-key"] != "k-1" {
			t.Errorf("outputs of a hit: %v", s.Outputs)
		}
		equal(t, "store", j.tree("~/.store"), []string{"deep/s=s\n"})
		if got := j.sh(`cat file.txt; ls -l node_modules/.bin/x | cut -c1-10; readlink node_modules/.bin`); got != "f\n-rwxr-xr-x\na/bin" {
			t.Errorf("got %q", got)
		}
		contains(t, j.post("actions/cache@v4", s), "Cache hit occurred on the primary key k-1, not saving cache.")
	})
}

func TestCacheRestoreKeys(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		j.host.Cache.now = func() time.Time { at = at.Add(time.Second); return at }
		for _, key := range []string{"npm-a", "npm-b", "npm-abc", "pip-z"} {
			j.next().cached(map[string]string{"path": "store", "key": key}, "mkdir -p store; echo "+key+" >store/key")
		}
		for _, c := range []struct{ key, restore, want string }{
			{"npm-a", "", "npm-a"},
			{"npm-", "", "npm-abc"}, // the primary key is a prefix too, the newest of those
			{"npm-ab", "pip-", "npm-abc"},
			{"npm-x", "npm-", "npm-abc"},
			{"npm-x", "nothing\npip-\nnpm-", "pip-z"},
			{"npm-x", "nothing", ""},
			{"NPM-a", "", ""},
		} {
			n := j.next()
			s, log := n.must("actions/cache/restore@v4", map[string]string{"path": "store", "key": c.key, "restore-keys": c.restore})
			if s.Outputs["cache-matched-key"] != c.want || s.Outputs["cache-primary-key"] != c.key {
				t.Errorf("%+v: outputs %v\n%s", c, s.Outputs, log)
			}
			if c.want == "" {
				continue
			}
			if hit := s.Outputs["cache-hit"]; hit != fmt.Sprint(c.want == c.key) {
				t.Errorf("%+v: cache-hit is %s", c, hit)
			}
			equal(t, "store", n.tree("store"), []string{"key=" + c.want + "\n"})
		}
		n := j.next()
		if _, log := n.must("actions/cache/restore@v4", map[string]string{"path": "other", "key": "npm-a"}); !strings.Contains(log, "Cache not found") {
			t.Error("other paths are another cache, and it is restored")
		}
	})
}

func TestCacheGrowsFromAnOlderOne(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.cached(map[string]string{"path": "store", "key": "k-1"}, "mkdir store; echo 1 >store/one; echo 1 >store/gone; echo 1 >store/both")
		with := map[string]string{"path": "store", "key": "k-2", "restore-keys": "k-"}
		_, log := j.next().cached(with, "echo 2 >store/two; rm store/gone; echo 2 >store/both")
		contains(t, log, "Cache hit for restore-key: k-1", "Cache saved with key: k-2")
		n := j.next()
		n.must("actions/cache@v4", with)
		equal(t, "store", n.tree("store"), []string{"both=2\n", "one=1\n", "two=2\n"})
		n = j.next()
		n.must("actions/cache@v4", map[string]string{"path": "store", "key": "k-1"})
		equal(t, "the older one", n.tree("store"), []string{"both=1\n", "gone=1\n", "one=1\n"})
	})
}

func TestCacheSaveAndRestoreAsSteps(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		with := map[string]string{"path": "store", "key": "k"}
		_, log := j.must("actions/cache/save@v4", with)
		contains(t, log, "[warning]Path Validation Error: Path(s) specified in the action for caching do(es) not exist, hence no cache is being saved.", "::warning::Cache save failed.")
		j.sh("mkdir store; echo x >store/x")
		_, log = j.must("actions/cache/save@v4", with)
		contains(t, log, "Cache saved with key: k")
		equal(t, "the directory after saving", j.tree("store"), []string{"x=x\n"})
		_, log = j.must("actions/cache/save@v4", with)
		contains(t, log, "Failed to save: Unable to reserve cache with key k, another job may be creating this cache.")

		n := j.next()
		s, log := n.must("actions/cache/restore@v4", map[string]string{"path": "store", "key": "k", "lookup-only": "true"})
		contains(t, log, "Lookup only - skipping download", "Cache found and can be restored from key: k")
		if s.Outputs["cache-hit"] != "true" || len(n.tree("store")) > 0 {
			t.Errorf("a look-up gives %v and %v", s.Outputs, n.tree("store"))
		}
		if _, _, err := n.run("actions/cache/restore@v4", map[string]string{"path": "store", "key": "z", "fail-on-cache-miss": "true"}); err == nil ||
			err.Error() != "Failed to restore cache entry. Exiting as fail-on-cache-miss is set. Input key: z" {
			t.Errorf("got %v", err)
		}
	})
}

func TestCacheGlobs(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		with := map[string]string{"path": "pkg/*/target\n!pkg/b/target\n*.lock", "key": "k"}
		j.cached(with, `for p in a b c; do mkdir -p pkg/$p/target pkg/$p/src; echo $p >pkg/$p/target/o; echo $p >pkg/$p/src/s; echo $p >$p.lock; done`)
		n := j.next()
		n.must("actions/cache@v4", with)
		equal(t, "restored", n.tree("."), []string{"a.lock=a\n", "b.lock=b\n", "c.lock=c\n", "pkg/a/target/o=a\n", "pkg/c/target/o=c\n"})
	})
}

func TestCacheScopes(t *testing.T) {
	j := newJob(t, "none")
	save := func(ref, key string) {
		n := j.next()
		n.github["ref"] = ref
		n.sh("mkdir store; echo " + ref + " >store/x")
		n.must("actions/cache/save@v4", map[string]string{"path": "store", "key": key})
	}
	save("refs/heads/main", "k")
	save("refs/heads/topic", "k")
	save("refs/heads/other", "only-other")
	for _, c := range []struct{ ref, base, key, want string }{
		{"refs/heads/topic", "", "k", "refs/heads/topic"},
		{"refs/heads/new", "", "k", "refs/heads/main"},
		{"refs/heads/new", "", "only-other", ""},
		{"refs/pull/1/merge", "other", "only-other", "refs/heads/other"},
		{"refs/pull/1/merge", "topic", "k", "refs/heads/topic"},
	} {
		n := j.next()
		n.github["ref"], n.github["base_ref"] = c.ref, c.base
		n.must("actions/cache/restore@v4", map[string]string{"path": "store", "key": c.key})
		if got := strings.Join(n.tree("store"), " "); got != strings.TrimPrefix("x="+c.want+"\n", map[bool]string{true: "x=\n"}[c.want == ""]) {
			t.Errorf("%+v: got %q", c, got)
		}
	}
	j.github["base_ref"] = ""
	j.github["repository"] = "octo/else"
	if s, _ := j.next().must("actions/cache/restore@v4", map[string]string{"path": "store", "key": "k"}); s.Outputs["cache-matched-key"] != "" {
		t.Error("another repository's cache is restored")
	}
	delete(j.github, "ref")
	_, log := j.must("actions/cache@v4", map[string]string{"path": "store", "key": "k"})
	contains(t, log, "[warning]Event Validation Error: The event type push is not supported because it's not tied to a branch or tag ref.")
}

func TestCacheRefusesBadKeys(t *testing.T) {
	j := newJob(t, "none")
	for _, c := range []struct {
		with map[string]string
		want string
	}{
		{map[string]string{"path": "x"}, "Input required and not supplied: key"},
		{map[string]string{"key": "x"}, "Input required and not supplied: path"},
		{map[string]string{"path": "x", "key": "a,b"}, "Key Validation Error: a,b cannot contain commas."},
		{map[string]string{"path": "x", "key": strings.Repeat("k", 513)}, "cannot be larger than 512 characters."},
		{map[string]string{"path": "x", "key": "a", "restore-keys": strings.Repeat("k\n", 10)}, "Keys are limited to a maximum of 10."},
	} {
		if _, _, err := j.run("actions/cache@v4", c.with); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %s", c.with, err, c.want)
		}
	}
	// Keys are hashed into file names: none of these leads anywhere.
	for _, key := range []string{"../../x", "/etc/x", strings.Repeat("ü", 500), "a\x00b", "."} {
		n := j.next()
		_, log := n.cached(map[string]string{"path": "store", "key": key}, "mkdir -p store; echo x >store/x")
		contains(t, log, "Cache saved with key: "+key)
	}
}

func TestCacheOfJobsThatSaveAtOnce(t *testing.T) {
	j := newJob(t, "none")
	logs := make([]string, 4)
	var wg sync.WaitGroup
	for i := range logs {
		n := j.next()
		wg.Go(func() {
			_, logs[i] = n.cached(map[string]string{"path": "store", "key": "k"}, fmt.Sprintf("mkdir -p store; echo %d >store/x; echo %d >store/y", i, i))
		})
	}
	wg.Wait()
	saved := 0
	for _, log := range logs {
		switch {
		case strings.Contains(log, "Cache saved with key: k"):
			saved++
		case !strings.Contains(log, "Unable to reserve cache with key k") && !strings.Contains(log, "not saving cache"):
			t.Errorf("neither saved nor refused:\n%s", log)
		}
	}
	if saved != 1 {
		t.Errorf("%d jobs saved, want 1", saved)
	}
	n := j.next()
	n.must("actions/cache@v4", map[string]string{"path": "store", "key": "k"})
	got := n.tree("store")
	if len(got) != 2 || got[0][2:] != got[1][2:] {
		t.Errorf("mixed: %v", got)
	}
}

func TestCacheIsWholeOrNotThere(t *testing.T) {
	j := newJob(t, "none")
	with := map[string]string{"path": "store", "key": "k"}
	j.sh("mkdir store; echo x >store/x")
	s, _ := j.step("actions/cache@v4", with)
	// A process that is killed between keeping the files and writing the index.
	if _, err := s.saveDirectory(t.Context(), s.abs("store")); err != nil {
		t.Fatal(err)
	}
	n := j.next()
	if s, _ := n.must("actions/cache/restore@v4", with); s.Outputs["cache-matched-key"] != "" {
		t.Error("half a cache is restored")
	}
	packs := func() int { p, _ := filepath.Glob(filepath.Join(j.host.Cache.dir, "packs", "*")); return len(p) }
	trim := func() {
		t.Helper()
		if err := j.host.Cache.Trim(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	trim()
	if packs() != 1 {
		t.Error("what may be another process's is removed")
	}
	j.host.Cache.now = func() time.Time { return time.Now().Add(25 * time.Hour) }
	trim()
	if packs() != 0 {
		t.Error("what a killed process left is not removed")
	}
}

func TestCacheTrimsWhatWasUsedLongestAgo(t *testing.T) {
	j := newJob(t, "none")
	cache := j.host.Cache
	now := time.Now()
	cache.now = func() time.Time { now = now.Add(time.Minute); return now }
	for _, key := range []string{"a", "b", "c"} {
		j.next().cached(map[string]string{"path": "store", "key": key}, "mkdir store; head -c 100000 /dev/urandom >store/x")
	}
	j.next().must("actions/cache/restore@v4", map[string]string{"path": "store", "key": "a"}) // used again
	cache.limit = 250_000
	if err := cache.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := func() string {
		var keys []string
		for _, key := range []string{"a", "b", "c"} {
			if cache.has("octo/repo refs/heads/main", cacheVersion([]string{"store"}, false), key) {
				keys = append(keys, key)
			}
		}
		return strings.Join(keys, "")
	}
	if left() != "ac" {
		t.Errorf("left: %s, want ac", left())
	}
	now = now.AddDate(0, 0, 8)
	if err := cache.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left() != "" {
		t.Errorf("after a week: %s, want none", left())
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	j.next().cached(map[string]string{"path": "store", "key": "d"}, "mkdir store; echo x >store/x")
	if err := cache.Trim(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCacheSurvivesADamagedIndex(t *testing.T) {
	j := newJob(t, "none")
	with := map[string]string{"path": "store", "key": "k"}
	j.cached(with, "mkdir store; echo x >store/x")
	file := j.host.Cache.indexFile("octo/repo refs/heads/main", cacheVersion([]string{"store"}, false), "k")
	for _, text := range []string{
		"{", `{"key":"k","version":"x"}`,
		`{"scope":"octo/repo refs/heads/main","version":"` + cacheVersion([]string{"store"}, false) + `","key":"k","parts":[{"base":"workspace","path":"../../evil","pack":"x"}]}`,
		`{"scope":"octo/repo refs/heads/main","version":"` + cacheVersion([]string{"store"}, false) + `","key":"k","parts":[{"base":"workspace","path":"store","pack":"../index/x"}]}`,
		`{"scope":"octo/repo refs/heads/main","version":"` + cacheVersion([]string{"store"}, false) + `","key":"k","parts":[{"base":"workspace","path":"store","pack":"gone"}]}`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n := j.next()
		s, log := n.must("actions/cache@v4", with)
		if s.Outputs["cache-matched-key"] != "" {
			t.Errorf("%s: restored\n%s", text, log)
		}
	}
	// What is damaged is saved again.
	if err := os.WriteFile(file, []byte{0, 0}, 0o600); err != nil {
		t.Fatal(err)
	}
	n := j.next()
	if _, log := n.cached(with, "mkdir store; echo y >store/x"); !strings.Contains(log, "Cache saved with key: k") {
		t.Error(log)
	}
}

// frozen is a step's end on a machine with layers: the disk is frozen.
func (j *job) frozen() {
	j.t.Helper()
	if _, err := j.box.(sandbox.Layered).Snapshot(j.t.Context()); err != nil {
		j.t.Fatal(err)
	}
}

func TestCacheOfADirectoryMadeInSeveralSteps(t *testing.T) {
	for _, c := range []struct {
		name, path string
		steps      []string
		want       string
	}{
		{"one step", "d", []string{"mkdir d; echo 1 >d/a"}, "a=1"},
		{"on top", "d", []string{"mkdir -p d/s; echo 1 >d/a; echo 1 >d/b; echo 1 >d/s/x", "echo 2 >d/a; rm d/b; echo 2 >d/c", "rm -r d/s; mkdir d/s; echo 3 >d/s/y"}, "a=2 c=2 s/y=3"},
		{"made anew", "d", []string{"mkdir d; echo 1 >d/a", "rm -r d", "mkdir d; echo 3 >d/b"}, "b=3"},
		{"parent made anew", "p/d", []string{"mkdir -p p/d; echo 1 >p/d/a", "rm -r p; mkdir -p p/d; echo 2 >p/d/b", "echo 3 >p/d/c"}, "b=2 c=3"},
		{"parent removed", "p/d", []string{"mkdir -p p/d; echo 1 >p/d/a", "rm -r p", "mkdir -p p/d; echo 3 >p/d/c"}, "c=3"},
		{"was a file", "d", []string{"echo 1 >d", "rm d; mkdir d; echo 2 >d/a"}, "a=2"},
		{"moved", "d", []string{"mkdir e; echo 1 >e/a", "mv e d; echo 2 >d/b"}, "a=1 b=2"},
		{"on the host's files", "src", []string{"echo 1 >src/made; rm src/gone"}, "host=h made=1"},
		{"in the host's directory", "src/d", []string{"mkdir src/d; echo 1 >src/d/a", "echo 2 >src/d/b"}, "a=1 b=2"},
		{"in the place of the host's", "src", []string{"rm -r src; mkdir src; echo 1 >src/a"}, "a=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			repo, sha := newRepo(t, map[string]string{"src/host": "h\n", "src/gone": "g\n"})
			j := newJob(t, "host")
			j.here(repo, sha)
			j.must("actions/checkout@v4", nil)
			for _, script := range c.steps {
				j.sh(script)
				j.frozen()
			}
			j.must("actions/cache/save@v4", map[string]string{"path": c.path, "key": "k"})
			j.sh("echo later >" + c.path + "/later")
			before := j.tree(c.path)

			n := j.next()
			n.must("actions/cache/restore@v4", map[string]string{"path": c.path, "key": "k"})
			got := strings.ReplaceAll(strings.Join(n.tree(c.path), " "), "\n", "")
			if got != c.want {
				t.Errorf("restored %s, want %s", got, c.want)
			}
			if want := strings.ReplaceAll(strings.Join(append(before, ""), " "), "\n", ""); !strings.Contains(want, "later=later") || len(before) != len(n.tree(c.path))+1 {
				t.Errorf("the job itself has %s", want)
			}
			n.sh("echo x >" + c.path + "/x; rm -r " + c.path + "/*")
			m := j.next()
			m.must("actions/cache/restore@v4", map[string]string{"path": c.path, "key": "k"})
			if again := strings.ReplaceAll(strings.Join(m.tree(c.path), " "), "\n", ""); again != c.want {
				t.Errorf("restored again %s, want %s", again, c.want)
			}
		})
	}
}

func TestCacheKeepsItsLayers(t *testing.T) {
	j := newJob(t, "host")
	with := map[string]string{"path": "d", "key": "k"}
	j.sh("mkdir d; echo 1 >d/a")
	j.frozen()
	j.sh("echo 2 >d/b")
	j.must("actions/cache/save@v4", with)
	entries, err := j.host.Cache.used()
	if err != nil || len(entries) != 1 || entries[0].Ref == "" {
		t.Fatalf("%+v, %v", entries, err)
	}
	if ids, err := machines.layers.Ref(entries[0].Ref); err != nil || len(ids) != 1 {
		t.Errorf("kept: %v, %v", ids, err)
	}
	if err := j.host.Cache.measure(t.Context(), entries); err != nil || entries[0].size == 0 {
		t.Errorf("size %d, %v", entries[0].size, err)
	}
	j.host.Cache.now = func() time.Time { return time.Now().AddDate(0, 0, 8) }
	if err := j.host.Cache.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := machines.layers.Ref(entries[0].Ref); !errors.Is(err, layer.ErrNotExist) {
		t.Errorf("still kept: %v", err)
	}
	// A reference of a process that was killed before it wrote the index goes once it is old.
	stale := fmt.Sprintf("%s%d-x", refPrefix, time.Now().Unix())
	if err := machines.layers.SetRef(stale, entries[0].Parts[0].Layer); err != nil {
		t.Fatal(err)
	}
	if err := j.host.Cache.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := machines.layers.Ref(stale); !errors.Is(err, layer.ErrNotExist) {
		t.Errorf("still kept: %v", err)
	}
}

// TestCacheRestoredIsAMountPoint pins what differs from GitHub: the directory's content goes, the directory itself can
// not be removed or renamed in the job that restored it.
func TestCacheRestoredIsAMountPoint(t *testing.T) {
	j := newJob(t, "host")
	with := map[string]string{"path": "d", "key": "k"}
	j.sh("mkdir -p d/e; echo 1 >d/a")
	j.must("actions/cache/save@v4", with)
	j.sh("rm -r d") // saving leaves the directory as it was
	n := j.next()
	n.must("actions/cache/restore@v4", with)
	got := n.sh("rm -rf d 2>&1 || echo failed; ls -A d; mkdir d/e; rmdir d/e; mv d x 2>/dev/null || echo failed")
	if !strings.Contains(got, "busy\nfailed\nfailed") {
		t.Errorf("got %q", got)
	}
}
