package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/pgtest"
)

// server is the PostgreSQL of all tests that do not stop it.
var server struct {
	sync.Mutex
	made *pgtest.Server
}

func postgres(t testing.TB) *pgtest.Server {
	t.Helper()
	server.Lock()
	defer server.Unlock()
	if server.made == nil {
		var err error
		if server.made, err = pgtest.New(); err != nil {
			t.Fatal(err)
		}
	}
	return server.made
}

// awaitRecord waits until a store has a record with a number above after.
func awaitRecord(t *testing.T, s *Store, after int64) {
	t.Helper()
	for {
		news := s.Changed()
		if last, err := s.LastRecord(t.Context()); err != nil {
			t.Fatal(err)
		} else if last > after {
			return
		}
		<-news
	}
}

func TestServersShareADatabase(t *testing.T) {
	url := postgres(t).Database(t)
	stores := make([]*Store, 3)
	var all sync.WaitGroup
	for i := range stores { // at once: only one of them makes the tables
		all.Go(func() { stores[i] = openStore(t, url) })
	}
	all.Wait()
	run := create(t, stores[0], plan(t, twoCells, nil))
	for _, s := range stores {
		if !s.Shared() || !s.Durable() {
			t.Error("a store on PostgreSQL says that it is not shared, or not durable")
		}
		awaitRecord(t, s, 0)
		wantSame(t, load(t, s, run.ID), run)
	}

	var won atomic.Int64
	for _, s := range stores {
		for range 4 {
			all.Go(func() {
				for range 10 {
					mine, err := tryCreate(s, plan(t, twoCells, nil))
					if err == nil {
						err = tryStep(s, mine, ci.Cancel{By: "mona"})
					}
					if err != nil {
						t.Error(err)
					}
				}
				switch err := tryStep(s, load(t, s, run.ID), ci.Cancel{By: "mona"}); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, ErrConflict) && !errors.Is(err, ci.ErrStale):
					t.Error(err)
				}
			})
		}
	}
	// A reader that follows the numbers while others write never sees one before those below it.
	last := int64(0)
	for left := 2*120 + 1; last < int64(left); {
		news := stores[1].Changed()
		page, err := stores[1].Records(t.Context(), last, 50)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			if last++; r.Seq != last {
				t.Fatalf("record %d where %d was due", r.Seq, last)
			}
		}
		if len(page) == 0 {
			<-news
		}
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d changed the run from one version, want 1", won.Load())
	}
	for _, s := range stores {
		wantGapless(t, s)
	}
	for id := range ci.RunID(121) {
		wantReplay(t, stores[2], id+1)
	}
}

// New records are noticed by their announcement, and where that does not arrive, as through some poolers, all the same.
func TestRecordsOfOthersAreNoticed(t *testing.T) {
	for _, c := range []struct {
		name string
		poll time.Duration
		add  func(t *testing.T, s *Store, database string)
	}{
		{"announced", time.Hour, func(t *testing.T, s *Store, _ string) { create(t, s, plan(t, twoCells, nil)) }},
		{"unannounced", time.Millisecond, func(t *testing.T, _ *Store, database string) {
			postgres(t).Exec(t, database, `INSERT INTO records SELECT seq + 1, run, event, at FROM records ORDER BY seq DESC LIMIT 1`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := postgres(t).Database(t)
			s := openStore(t, url)
			create(t, s, plan(t, twoCells, nil))
			d, err := parsePostgres(url)
			if err != nil {
				t.Fatal(err)
			}
			d.poll = c.poll
			ctx, cancel := context.WithCancel(t.Context())
			news, ended := make(chan struct{}, 1), make(chan struct{})
			go func() {
				defer close(ended)
				d.follow(ctx, func() {
					select {
					case news <- struct{}{}:
					default:
					}
				})
			}()
			<-news // it may have missed some while it was not connected
			c.add(t, s, strings.TrimPrefix(pathOf(t, url), "/"))
			<-news
			cancel()
			<-ended
		})
	}
}

func pathOf(t *testing.T, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path
}

func TestDatabaseGoesAway(t *testing.T) {
	db, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := openStore(t, db.Database(t))
	var acknowledged sync.Map
	var all sync.WaitGroup
	write := func(n int) {
		for range n {
			all.Go(func() {
				run, err := tryCreate(s, plan(t, twoCells, nil))
				if err != nil {
					t.Error(err)
					return
				}
				if _, twice := acknowledged.LoadOrStore(run.ID, run); twice {
					t.Errorf("run %d was acknowledged twice", run.ID)
				}
			})
		}
	}
	for _, end := range []func() error{db.Stop, db.Crash} {
		write(20)
		if err := end(); err != nil {
			t.Fatal(err)
		}
		write(20)
		if err := db.Start(); err != nil {
			t.Fatal(err)
		}
		all.Wait()
	}
	stored := func() int {
		t.Helper()
		list, err := s.Runs(t.Context(), Filter{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if run, ok := acknowledged.Load(r.ID); !ok {
				t.Errorf("run %d is stored and was not acknowledged", r.ID)
			} else {
				wantSame(t, load(t, s, r.ID), run.(*ci.Run))
			}
		}
		wantGapless(t, s)
		return len(list)
	}
	if n := stored(); n != 80 {
		t.Errorf("%d runs are stored, want the 80 that were acknowledged", n)
	}

	if err := db.Stop(); err != nil {
		t.Fatal(err)
	}
	s.writer.away.patience = 0
	for range 2 {
		if _, err := tryCreate(s, plan(t, twoCells, nil)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("writing to a database that stays away = %v, want ErrUnavailable", err)
		}
	}
	if _, err := s.Runs(t.Context(), Filter{}); !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "\n") {
		t.Errorf("reading from it = %v, want ErrUnavailable in one line", err)
	}
	if err := db.Start(); err != nil {
		t.Fatal(err)
	}
	if n := stored(); n != 80 {
		t.Errorf("%d runs are stored after writes that failed, want 80", n)
	}
	write(1)
	all.Wait()
}

// A connection that breaks while its transaction is committed leaves open whether that took place.
func TestCommitWithoutAnswer(t *testing.T) {
	for _, c := range []struct {
		name    string
		arrives bool
		stays   bool // the database stays away
	}{{"it took place", true, false}, {"it did not", false, false}, {"nobody knows", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			db := postgres(t)
			direct := db.Database(t)
			p := listen(t, filepath.Join(db.Dir, ".s.PGSQL.5432"))
			s := openStore(t, strings.Replace(direct, url.QueryEscape(db.Dir), url.QueryEscape(p.dir), 1))
			create(t, s, plan(t, twoCells, nil))
			if c.stays {
				s.writer.away.patience = 0
			}
			p.cut(c.arrives, c.stays)
			run, err := tryCreate(s, plan(t, twoCells, nil))
			if c.stays {
				if !errors.Is(err, ErrInDoubt) {
					t.Errorf("Create = %v, want ErrInDoubt", err)
				}
				s = openStore(t, direct)
			} else if err != nil || run.ID != 2 {
				t.Errorf("Create = %v, %v, want run 2", run, err)
			}
			if p.cuts() != 1 {
				t.Errorf("the connection was cut %d times, want once", p.cuts())
			}
			if list, err := s.Runs(t.Context(), Filter{}); err != nil || len(list) != 2 {
				t.Errorf("runs %v, %v are stored, want two", list, err)
			}
			wantGapless(t, s)
		})
	}
}

// breaker stands between a store and PostgreSQL and can break a connection at its next commit.
type breaker struct {
	dir, target string
	listener    net.Listener
	work        sync.WaitGroup

	mu                    sync.Mutex
	armed, arrives, stays bool
	done                  int
}

func listen(t *testing.T, target string) *breaker {
	t.Helper()
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	p := &breaker{dir: dir, target: target}
	if p.listener, err = net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432")); err != nil {
		t.Fatal(err)
	}
	p.work.Go(func() {
		for {
			client, err := p.listener.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.carry(client) })
		}
	})
	t.Cleanup(func() {
		p.listener.Close()
		p.work.Wait()
		os.RemoveAll(dir)
	})
	return p
}

// cut breaks a connection at the next commit, before it reaches the database or after. If the database is to stay away,
// nobody can connect from then on.
func (p *breaker) cut(arrives, stays bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed, p.arrives, p.stays = true, arrives, stays
}

func (p *breaker) cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

func (p *breaker) carry(client net.Conn) {
	defer client.Close()
	db, err := net.Dial("unix", p.target)
	if err != nil {
		return
	}
	defer db.Close()
	var cutting atomic.Bool
	back := make(chan struct{})
	go func() {
		defer close(back)
		buffer := make([]byte, 64<<10)
		for {
			n, err := db.Read(buffer)
			if err != nil || cutting.Load() {
				client.Close()
				return
			}
			client.Write(buffer[:n])
		}
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			break
		}
		if cut, arrives := p.cutsHere(buffer[:n]); cut {
			cutting.Store(true)
			if arrives {
				db.Write(buffer[:n])
				<-back // it has answered
			}
			break
		}
		db.Write(buffer[:n])
	}
	db.Close()
	<-back
}

func (p *breaker) cutsHere(sent []byte) (cut, arrives bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.armed || !bytes.Contains(sent, []byte("commit\x00")) {
		return false, false
	}
	p.armed = false
	p.done++
	if p.stays {
		p.listener.Close()
	}
	return true, p.arrives
}

func TestFullDiskOfPostgres(t *testing.T) {
	db, err := pgtest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	small := filepath.Join(db.Dir, "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := mountSmall(small, 4<<20); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(small, syscall.MNT_DETACH) })
	info, err := os.Stat(db.Dir)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if err := os.Chown(small, int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
	url := db.Database(t)
	db.Exec(t, "postgres", `CREATE TABLESPACE small LOCATION '`+small+`'`)
	s := openStore(t, url+"&default_tablespace=small")
	var acknowledged []*ci.Run
	for n := range 3000 {
		var run *ci.Run
		if run, err = tryCreate(s, plan(t, twoCells+fmt.Sprintf("# %d %s\n", n, hex.EncodeToString(random(10_000))), nil)); err != nil {
			break
		}
		acknowledged = append(acknowledged, run)
	}
	if !errors.Is(err, ErrFull) || len(acknowledged) < 10 {
		t.Fatalf("after %d runs: %v, want ErrFull", len(acknowledged), err)
	}
	list, err := s.Runs(t.Context(), Filter{Limit: 3000})
	if err != nil || len(list) != len(acknowledged) {
		t.Errorf("%d runs are stored (%v), want %d", len(list), err, len(acknowledged))
	}
	for _, run := range acknowledged {
		wantSame(t, load(t, s, run.ID), run)
	}
	wantGapless(t, s)
}

// random gives bytes that do not compress.
func random(n int) []byte {
	p := make([]byte, n)
	rand.Read(p)
	return p
}

func TestErrorsHaveNoPassword(t *testing.T) {
	for _, url := range []string{
		"postgres://mona:s3cr3t-w0rd@localhost:1/x", "postgres://mona:s3cr3t-w0rd%@localhost/x", "postgres://mona:s3cr3t-w0rd@localhost:port/x",
		"postgres://mona:s3cr3t-w0rd@localhost/x?sslmode=sometimes", "postgres://mona:s3cr3t-w0rd @local host/x",
		"postgres://localhost:1/x?password=s3cr3t-w0rd&user=mona",
		"postgres://localhost/x?password=s3cr3t-w0rd&connect_timeout=soon",
	} {
		s, err := Open(t.Context(), url)
		if err == nil {
			s.Close()
		}
		if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "s3cr3t-w0rd") {
			t.Errorf("the error of a bad URL is %v, want one without the password", err)
		}
	}
}
