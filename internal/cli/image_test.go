package cli

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// startRegistry runs penstock registry, with images of its own, until the script ends, and puts its host:port into
// REGISTRY.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	home := filepath.Join(ts.Getenv("WORK"), ".registry")
	cmd := exec.Command("penstock", "registry", "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+filepath.Join(home, ".cache"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		ts.Check(cmd.Process.Signal(syscall.SIGTERM))
		ts.Check(cmd.Wait()) // exit code 0: to be ended is no failure
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	ts.Check(err)
	ts.Setenv("REGISTRY", strings.TrimPrefix(strings.TrimSpace(line), "http://"))
}
