//go:build linux

package sandbox

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/penstock-ci/penstock/internal/layer"
)

// ordinary is set in the environment of the test binary when it runs as an ordinary user.
const ordinary = "PENSTOCK_TEST_ORDINARY"

// newHost gives a provider with a store of its own.
func newHost(t testing.TB) *Host {
	t.Helper()
	return hostOn(t, openStore(t, t.TempDir()))
}

func openStore(t testing.TB, dir string) *layer.Store {
	t.Helper()
	store, err := layer.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func hostOn(t testing.TB, store *layer.Store) *Host {
	t.Helper()
	return hostWith(t, store, nil)
}

func hostWith(t testing.TB, store *layer.Store, p *Program) *Host {
	t.Helper()
	h, err := NewHost(store, p)
	if err != nil {
		t.Fatal(err)
	}
	h.Ladder = quick
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestHost(t *testing.T) { suite{provider: newHost(t)}.run(t) }

// TestOrdinaryUser runs all tests of host machines again as a user without privileges, if it runs with any itself.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // all the others are
	}
	dir := ordinaryHome(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHost|^TestContainer|^TestMachine|^TestLayered|^TestNetwork", "-test.v="+verbose(), "-test.timeout=5m")
	cmd.Env = []string{"PATH=/usr/local/go/bin:" + standardPath, "HOME=" + dir, "TMPDIR=" + dir, ordinary + "=1"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryID, Gid: ordinaryID}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

const ordinaryID = 54321

func verbose() string {
	if testing.Verbose() {
		return "true"
	}
	return "false"
}

// ordinaryHome makes a directory that an ordinary user reaches and owns.
func ordinaryHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ordinary-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := layer.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chown(dir, ordinaryID, ordinaryID); err != nil {
		t.Fatal(err)
	}
	return dir
}
