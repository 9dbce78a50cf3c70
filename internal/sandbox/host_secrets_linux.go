package sandbox

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// hiddenPaths are secrets and other tenants' data wherever a system has them, whatever their mode. Directories stay,
// empty, since packages expect them.
var hiddenPaths = []string{
	"/etc/ssl/private", "/etc/krb5.keytab", "/etc/docker/key.json", "/etc/rancher", "/etc/kubernetes", "/etc/wireguard",
	"/etc/letsencrypt", "/etc/NetworkManager/system-connections", "/etc/openvpn", "/etc/pki/tls/private", "/etc/sudoers.d",
	"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/lib/kubelet", "/var/lib/rancher", "/var/lib/private",
	"/var/lib/libvirt", "/var/lib/lxd", "/var/lib/lxc", "/var/lib/snapd", "/var/lib/cloud", "/var/lib/sss", "/var/lib/NetworkManager",
	"/var/backups", "/var/mail", "/var/spool/mail", "/var/spool/cron", "/var/log", "/var/tmp", "/var/snap", "/var/www",
	"/var/cache/private", "/var/crash",
}

// hiddenNames are globs for files that hold credentials.
var hiddenNames = []string{"/etc/ssh/ssh_host_*_key", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock", "/etc/security/opasswd"}

// openDirs hold files that only root reads on the host and that are no secrets: the package manager works with them.
var openDirs = []string{"/var/lib/dpkg", "/var/lib/apt", "/var/cache/apt", "/var/cache/ldconfig", "/var/lib/rpm", "/var/cache/dnf", "/var/lib/pacman"}

// secretDepth is how deep below /var and /opt it is looked for files that only some users may read.
const secretDepth = 4

// secrets leaves out of the machine what holds credentials or other users' data. What an ordinary user of this host
// can not read, a job can not either: the kernel sees to that where the user is an ordinary one, and we look through
// the host's configuration and state where it is root.
func (b *baseBuilder) secrets() {
	for _, path := range hiddenPaths {
		b.hide(path)
	}
	for _, glob := range hiddenNames {
		names, _ := filepath.Glob(glob) // the patterns are ours, and well formed
		for _, name := range names {
			b.hide(name)
		}
	}
	if !b.h.shifted() {
		for dir, depth := range ownDirs {
			b.own(dir, depth)
		}
		return
	}
	l := openListings(filepath.Join(b.h.layers.Dir(), baseDir, "listings"))
	b.hidePrivate(l, "/etc", 16)
	b.hidePrivate(l, "/opt", secretDepth)
	b.hidePrivate(l, "/var", secretDepth)
	b.hidePrivate(l, "/usr/local", secretDepth)
	l.save()
}

// ownDirs, and what is in them down to a depth, become directories of the machine's root for an ordinary user, so that
// root inside can add, replace and remove files there. Files of the host's root stay as they are for anyone: their
// owner has no number inside.
var ownDirs = map[string]int{"/etc": 2, "/opt": 2, "/usr": 2, "/usr/lib": 2, "/usr/local": 3, "/usr/share/man": 1, "/var": 2, "/var/lib": 2, "/var/cache": 2}

func (b *baseBuilder) own(dir string, depth int) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // not there, or not for this user
	}
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if !e.IsDir() || b.coveredBy(path) || b.mask[path] != nil && b.mask[path].kind != kindDir {
			continue
		}
		if unix.Access(path, unix.R_OK|unix.X_OK) != nil {
			continue
		}
		b.put(path, b.likeHost(b.placeOf(path), path))
		if depth > 1 {
			b.own(path, depth-1)
		}
	}
}

// hide leaves a file out, and empties a directory.
func (b *baseBuilder) hide(path string) {
	info, err := os.Lstat(path)
	if err != nil || b.mask[path] != nil || b.coveredBy(path) || info.Mode()&os.ModeSymlink != 0 {
		return
	}
	if !info.IsDir() {
		b.put(path, &entry{kind: kindWhiteout})
		return
	}
	e := b.likeHost(b.placeOf(path), path)
	e.kind = kindOpaque
	b.put(path, e)
}

// coveredBy says whether a directory above path is emptied already, or path is in no place at all.
func (b *baseBuilder) coveredBy(path string) bool {
	if b.placeOf(path).dir == "" {
		return true
	}
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if e := b.mask[dir]; e != nil && e.kind != kindDir {
			return true
		}
	}
	return false
}

// hidePrivate hides below dir what not everyone on this host may read.
func (b *baseBuilder) hidePrivate(l *listings, dir string, depth int) {
	found := l.of(dir)
	if found == nil {
		return
	}
	for _, name := range found.closed {
		if path := dir + "/" + name; !b.exempt(path) {
			b.hide(path)
		}
	}
	for _, name := range found.dirs {
		if path := dir + "/" + name; depth > 1 && !b.exempt(path) {
			b.hidePrivate(l, path, depth-1)
		}
	}
}

func (b *baseBuilder) exempt(path string) bool {
	for _, dir := range openDirs {
		if path == dir {
			return true
		}
	}
	return b.mask[path] != nil && b.mask[path].kind != kindDir
}

// etc puts our own versions of files that tell about the host or its users' passwords.
func (b *baseBuilder) etc() error {
	for path, data := range map[string]string{
		"/etc/shadow":  emptyPasswords("/etc/passwd", ":*:19000:0:99999:7:::"),
		"/etc/gshadow": emptyPasswords("/etc/group", ":*::"),
	} {
		b.put(path, &entry{kind: kindFile, mode: 0o640, data: data})
	}
	if _, err := os.Lstat("/etc/sudoers"); err == nil {
		b.put("/etc/sudoers", &entry{kind: kindFile, mode: 0o440, data: "root ALL=(ALL:ALL) NOPASSWD: ALL\n@includedir /etc/sudoers.d\n"})
	}
	b.put("/etc/resolv.conf", &entry{kind: kindFile, mode: 0o644, data: resolvFile()})
	b.put("/etc/mtab", &entry{kind: kindLink, data: "../proc/self/mounts"})
	return nil
}

// emptyPasswords makes a shadow file for the names of a passwd or group file: nobody can log in with a password.
func emptyPasswords(names, rest string) string {
	text, err := os.ReadFile(names)
	if err != nil {
		return ""
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(line, ":"); ok && name != "" {
			out.WriteString(name + rest + "\n")
		}
	}
	return out.String()
}

// hostsFile is what the host's administrator added to /etc/hosts; names of the host itself mean the machine inside.
type hostsFile string

func readHosts() hostsFile {
	text, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return ""
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if ip, err := netip.ParseAddr(fields[0]); err == nil && !ip.IsLoopback() && !ip.IsMulticast() && !ip.IsLinkLocalUnicast() {
			kept.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	return hostsFile(kept.String())
}

// with is /etc/hosts inside a machine.
func (h hostsFile) with(names ...string) string {
	return "127.0.0.1\tlocalhost " + strings.Join(names, " ") + "\n::1\tlocalhost ip6-localhost ip6-loopback\n" + string(h)
}

// resolvFile is /etc/resolv.conf inside: our relay, and the host's search list.
func resolvFile() string {
	own := "nameserver " + agent.Resolver.String() + "\n"
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return own
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && (fields[0] == "search" || fields[0] == "domain" || fields[0] == "options") {
			own += strings.Join(fields, " ") + "\n"
		}
	}
	return own
}
