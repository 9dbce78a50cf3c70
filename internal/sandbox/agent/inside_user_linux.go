package agent

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// DefaultPath is the PATH of a container whose image names none (Docker's).
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Bounds of what is read of a machine's own /etc/passwd and /etc/group.
const (
	maxAccounts = 1 << 20
	maxGroups   = 1 << 10
)

// identity is who a command runs as.
type identity struct {
	uid, gid int
	groups   []uint32
	home     string
}

// become makes a command run as a user, with the user's home directory as HOME if the environment has none.
func become(attr *syscall.ProcAttr, user string) error {
	who, err := lookUser(user)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(attr.Env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		attr.Env = append(slices.Clip(attr.Env), "HOME="+who.home)
	}
	if who.uid == 0 && who.gid == 0 && len(who.groups) == 0 {
		return nil
	}
	attr.Sys.Credential = &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid), Groups: who.groups}
	if idsMapped() > 1 {
		return nil
	}
	// Nobody but root is here: the command sees root as its user, and itself as that one.
	attr.Sys.Cloneflags |= unix.CLONE_NEWUSER
	attr.Sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: who.uid, HostID: 0, Size: 1}}
	attr.Sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: who.gid, HostID: 0, Size: 1}}
	attr.Sys.Credential = &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid), NoSetGroups: true}
	return nil
}

// containerEnv is a container's environment with what Docker sees to.
func containerEnv(env []string) []string {
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		env = append(slices.Clip(env), "PATH="+DefaultPath)
	}
	return env
}

// idsMapped is how many user ids there are in this process's user namespace.
func idsMapped() int {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return 1
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 {
			size, _ := strconv.Atoi(f[2])
			n += size
		}
	}
	return n
}

// lookUser reads user[:group], by the rules of Docker: names and ids are those of /etc/passwd and /etc/group, an id that
// is not there stands for itself, and without a group the user has those that the files say.
func lookUser(spec string) (identity, error) {
	name, group, grouped := strings.Cut(spec, ":")
	who := identity{home: "/"}
	account := ""
	if name == "" {
		name = "0"
	}
	id, isID := parseID(name)
	found := false
	eachAccount("/etc/passwd", func(f []string) bool {
		if len(f) < 6 || f[0] != name && !(isID && f[2] == name) {
			return false
		}
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if found = ok1 && ok2; found {
			who.uid, who.gid, account = uid, gid, f[0]
			if f[5] != "" {
				who.home = f[5]
			}
		}
		return found
	})
	switch {
	case found:
	case isID:
		who.uid = id
	default:
		return who, fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	}
	if grouped && group != "" {
		gid, err := lookGroup(group)
		who.gid = gid
		return who, err
	}
	eachAccount("/etc/group", func(f []string) bool {
		if len(f) >= 4 && account != "" && slices.Contains(strings.Split(f[3], ","), account) {
			if gid, ok := parseID(f[2]); ok && gid != who.gid {
				who.groups = append(who.groups, uint32(gid))
			}
		}
		return len(who.groups) >= maxGroups
	})
	return who, nil
}

func lookGroup(name string) (gid int, err error) {
	id, isID := parseID(name)
	found := false
	eachAccount("/etc/group", func(f []string) bool {
		if len(f) >= 3 && (f[0] == name || isID && f[2] == name) {
			gid, found = parseID(f[2])
		}
		return found
	})
	if !found && !isID {
		return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", name)
	}
	if !found {
		gid = id
	}
	return gid, nil
}

func parseID(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n < 1<<31
}

// eachAccount gives the fields of the lines of a file like /etc/passwd until visit has seen enough.
func eachAccount(file string, visit func(fields []string) bool) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	for s := bufio.NewScanner(io.LimitReader(f, maxAccounts)); s.Scan(); {
		if visit(strings.Split(strings.TrimSpace(s.Text()), ":")) {
			return
		}
	}
}
