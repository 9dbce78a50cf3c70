package toolchain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
)

// goArches are Go's words for architectures, by Node.js's.
var goArches = map[string]string{"x64": "amd64", "arm64": "arm64", "ia32": "386", "arm": "arm"}

// goServer is go.dev/dl or a mirror of it.
type goServer struct {
	s    *Source
	base string
}

func (g *goServer) name() string   { return hostOf(g.base) }
func (g *goServer) registry() bool { return false }

func (g *goServer) list(ctx context.Context, p Platform) ([]Release, error) {
	var index []struct {
		Version string `json:"version"`
		Files   []struct {
			Filename, OS, Arch, SHA256, Kind string
		} `json:"files"`
	}
	if err := g.s.readJSON(ctx, join(g.base, "?mode=json&include=all"), &index); err != nil {
		return nil, err
	}
	arch := goArches[p.Arch]
	if arch == "arm" {
		arch = "armv6l"
	}
	var all []Release
	for _, e := range index {
		for _, f := range e.Files {
			if f.OS == p.OS && f.Arch == arch && f.Kind == "archive" && strings.HasSuffix(f.Filename, ".tar.gz") && filepath.Base(f.Filename) == f.Filename {
				all = append(all, Release{Version: strings.TrimPrefix(e.Version, "go"), SHA256: f.SHA256, File: f.Filename})
			}
		}
	}
	return all, nil
}

func (g *goServer) fetch(ctx context.Context, r Release, _ Platform, dir string, out *archive, _ io.Writer) error {
	if r.SHA256 == "" {
		return errors.New("the list has no SHA-256 of it")
	}
	name := filepath.Join(dir, "go.tar.gz")
	if err := g.s.download(ctx, join(g.base, r.File), r.SHA256, name); err != nil {
		return err
	}
	return out.addTar(name, "", below)
}

// goProxy is the module proxy that the user's go command is set up for, with the module golang.org/toolchain, from which
// the go command itself takes other versions. The go command asks for it, so that its settings, proxies and passwords
// count, and it verifies what it gets by Go's checksum database.
type goProxy struct{ s *Source }

func (g *goProxy) name() string   { return "the Go module proxy" }
func (g *goProxy) registry() bool { return true }

const goModule = "golang.org/toolchain"

// goVersionOf is a version of goModule: v0.0.1-go1.22.12.linux-amd64.
func goVersionOf(version string, p Platform) string {
	return fmt.Sprintf("v0.0.1-go%s.%s-%s", version, p.OS, goArches[p.Arch])
}

func (g *goProxy) list(ctx context.Context, p Platform) ([]Release, error) {
	dir, err := g.s.workDir()
	if err != nil {
		return nil, err
	}
	defer removeAll(dir)
	out, err := g.run(ctx, dir, "list", "-m", "-versions", "-json", goModule)
	if err != nil {
		return nil, err
	}
	var m struct{ Versions []string }
	if err := json.Unmarshal(out, &m); err != nil {
		return nil, err
	}
	before, after, _ := strings.Cut(goVersionOf(" ", p), " ")
	var all []Release
	for _, v := range m.Versions {
		if rest, ok := strings.CutPrefix(v, before); ok {
			if version, ok := strings.CutSuffix(rest, after); ok {
				all = append(all, Release{Version: version})
			}
		}
	}
	return all, nil
}

// run runs the go command with a module cache of its own, which goes with dir.
func (g *goProxy) run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	// A go.mod of its own keeps go from one above.
	if err := writeFile(dir, "go.mod", "module toolchains\n"); err != nil {
		return nil, err
	}
	env := []string{"GOMODCACHE=" + filepath.Join(dir, "mod"), "GOWORK=off", "GO111MODULE=on", "GOTOOLCHAIN=local", "GOFLAGS=-modcacherw"}
	return g.s.command(ctx, dir, env, "go", args...)
}

func (g *goProxy) fetch(ctx context.Context, r Release, p Platform, dir string, out *archive, _ io.Writer) error {
	version := goVersionOf(r.Version, p)
	text, err := g.run(ctx, dir, "mod", "download", "-json", goModule+"@"+version)
	var m struct{ Zip, Error string }
	if bad := json.Unmarshal(text, &m); err == nil {
		err = bad
	}
	if m.Error != "" {
		err = errors.New(m.Error)
	}
	if err != nil {
		return err
	}
	return out.addZip(m.Zip, goModule+"@"+version, goMode, goModAgain)
}

// goMode gives the files their modes as the go command does when it takes such a toolchain into use
// (cmd/go/internal/toolchain, Exec).
func goMode(name string) int64 {
	dir, base := path.Split(name)
	exec, _ := path.Match("go_?*_?*_exec", base)
	if dir == "bin/" || strings.HasPrefix(dir, "pkg/tool/") || exec && (strings.HasPrefix(dir, "lib/") || strings.HasPrefix(dir, "misc/")) {
		return 0o755
	}
	return 0o644
}

// goModAgain is the other name of go.mod files: a module can hold none but its own.
func goModAgain(name string) string {
	if dir, base := path.Split(name); base == "_go.mod" {
		return dir + "go.mod"
	}
	return ""
}
