package sandbox

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
)

var specName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
var hostName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$`) // as lenient as Docker's networks
var specRepo = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)

func (s *Spec) check() error {
	if !specName.MatchString(s.Name) {
		return fmt.Errorf("the name %q is no host name", s.Name)
	}
	for _, name := range s.Names {
		if !hostName.MatchString(name) {
			return fmt.Errorf("the name %q is no host name", name)
		}
	}
	if !specRepo.MatchString(s.Repo) || s.Repo == "." || s.Repo == ".." {
		return fmt.Errorf("%q is no repository name", s.Repo)
	}
	return nil
}

// osArch gives this machine in the runner context's words.
func osArch() (string, string) {
	systems := map[string]string{"linux": "Linux", "darwin": "macOS", "windows": "Windows"}
	arches := map[string]string{"amd64": "X64", "arm64": "ARM64", "386": "X86", "arm": "ARM"}
	system, arch := systems[runtime.GOOS], arches[runtime.GOARCH]
	if system == "" {
		system = runtime.GOOS
	}
	if arch == "" {
		arch = strings.ToUpper(runtime.GOARCH)
	}
	return system, arch
}

// Program is a file of this host that machines have under some names.
type Program struct {
	Names []string
	Path  string
	File  *os.File // what was at Path at the start: machines have it also when an upgrade has put another there
}
