package sandbox

import (
	"bytes"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
)

// toolDirs are where programs' own installers put toolchains below the user's home.
var toolDirs = []string{
	".pyenv", ".nvm", ".rustup", ".cargo", "go", ".go", ".asdf", ".local/share/mise", ".volta", ".sdkman", ".bun", ".deno",
	".local/bin", ".local/share/uv", ".local/share/pipx", ".local/pipx", ".local/share/fnm", ".fnm", ".nodenv", ".rbenv", ".rvm",
	".jenv", ".goenv", ".ghcup", ".dotnet", ".juliaup", ".julia", ".opam", ".swiftly", ".poetry", ".foundry", ".krew", ".pulumi/bin",
	"miniconda3", "anaconda3", "miniforge3", ".yarn/bin", "google-cloud-sdk",
}

// toolSecrets are names of files at the top of a toolchain that hold credentials.
var toolSecrets = []string{
	"credentials", "credentials.toml", "credentials.json", "auth.json", "auth.toml", ".env", ".npmrc", ".netrc", ".git-credentials", ".pypirc",
}

// tokenFiles hold settings that a build may need, and perhaps a token: then they are left out.
var tokenFiles = []string{"config", "config.toml", "config.json", "settings.toml"}

// maxTools bounds the places that a machine is made of.
const maxTools = 24

// standardPath is what every machine's PATH ends with.
const standardPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// tools shows the toolchains of the invoking user, at their usual path, and makes the machine's PATH.
func (b *baseBuilder) tools() {
	home := homeDir()
	if home != "" {
		for _, name := range toolDirs {
			b.tool(home, filepath.Join(home, name))
		}
	}
	var path []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH") + ":" + standardPath) {
		if !filepath.IsAbs(dir) || slices.Contains(path, filepath.Clean(dir)) {
			continue
		}
		dir = filepath.Clean(dir)
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			continue
		}
		if !b.visible(dir) {
			b.tool(home, installation(home, dir))
		}
		if b.visible(dir) {
			path = append(path, dir)
		}
	}
	b.path = strings.Join(path, ":")
}

// installation guesses from a directory of programs what else belongs to them.
func installation(home, dir string) string {
	switch filepath.Base(dir) {
	case "bin", "sbin", "shims":
		if up := filepath.Dir(dir); up != home && up != "/" {
			return up
		}
	}
	return dir
}

// visible says whether a directory of the host is in a place that machines show.
func (b *baseBuilder) visible(dir string) bool {
	place := b.placeOf(dir + "/x")
	return place.dir != "" && !b.coveredBy(dir+"/x") || b.mask[dir] != nil && b.mask[dir].kind == kindLink
}

// tool shows a toolchain. Homes as a whole, other users' files and what is no directory are not shown.
func (b *baseBuilder) tool(home, dir string) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil || len(b.shown) >= maxTools || b.visible(dir) {
		return
	}
	info, err := os.Stat(real)
	if err != nil || !info.IsDir() || real == "/" || filepath.Dir(real) == "/" && isData(real) || within(real, home) {
		return
	}
	if foreignHome(home, dir) || foreignHome(home, real) || slices.ContainsFunc(b.shown, func(s *shown) bool { return within(dir, s.at) }) {
		return
	}
	if _, err := os.ReadDir(real); err != nil {
		return
	}
	b.show(dir, real)
	if rel, err := filepath.Rel(home, dir); err == nil && filepath.IsLocal(rel) && home != insideHome {
		b.put(filepath.Join(insideHome, rel), &entry{kind: kindLink, data: dir})
		b.open(home)
	}
	for _, name := range toolSecrets {
		b.hideTool(dir, real, name, func([]byte) bool { return true })
	}
	for _, name := range tokenFiles {
		b.hideTool(dir, real, name, func(text []byte) bool { return bytes.Contains(bytes.ToLower(text), []byte("token")) })
	}
}

// open lets everyone inside pass through a home that is closed on the host; only toolchains are in it.
func (b *baseBuilder) open(home string) {
	if e := b.mask[home]; e != nil && e.kind == kindDir {
		e.mode = 0o755
	}
}

func (b *baseBuilder) hideTool(at, dir, name string, secret func(text []byte) bool) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err == nil && secret(text) {
		b.put(filepath.Join(at, name), &entry{kind: kindWhiteout})
	}
}

// isData says whether a directory of the root is none that tools are in.
func isData(dir string) bool {
	return slices.Contains([]string{"/home", "/root", "/proc", "/sys", "/dev", "/run", "/tmp", "/mnt", "/media", "/srv", "/boot", "/snap"}, dir)
}

// foreignHome says whether dir is in a home that is not the user's own.
func foreignHome(home, dir string) bool {
	if home != "" && within(home, dir) {
		return false
	}
	return within("/home", dir) || within("/root", dir) || within("/proc", dir) || within("/run", dir) || within("/tmp", dir) || within("/dev", dir) || within("/sys", dir)
}

// homeDir is the invoking user's home, or nothing if that is the root or not known.
func homeDir() string {
	home := os.Getenv("HOME")
	if home == "" {
		if u, err := user.Current(); err == nil {
			home = u.HomeDir
		}
	}
	home = filepath.Clean(home)
	if !filepath.IsAbs(home) || home == "/" {
		return ""
	}
	return home
}
