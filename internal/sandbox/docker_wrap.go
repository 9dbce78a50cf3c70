package sandbox

import (
	"fmt"
	"regexp"
	"strings"
)

// wrapped is a command as Docker gets it.
type wrapped struct {
	args []string
	env  []string // in addition to the command's own
}

// shellName is what every shell passes on from its environment; ownName is what one or the other takes for itself.
var (
	shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	ownName   = regexp.MustCompile(`^(BASH.*|COMP_.*|DIRSTACK|ENV|EPOCH.*|EUID|FUNCNAME|GROUPS|HISTCMD|IFS|LINENO|OLDPWD|OPTARG|OPTERR|OPTIND|PPID|PS[0-9]|RANDOM|SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID|_)$`)
)

// wrap has the image's shell say nonce with its process id, then become the command. Names that shells do not pass on,
// such as INPUT_GO-VERSION, go round it under others: never as arguments, which the daemon tells to whoever listens to
// its events.
func wrap(c Command, nonce string) wrapped {
	var w wrapped
	var odd, unset strings.Builder
	home := false
	for _, kv := range c.Env {
		name, value, ok := strings.Cut(kv, "=")
		home = home || name == "HOME"
		if !ok || shellName.MatchString(name) && !ownName.MatchString(name) {
			continue
		}
		alias := fmt.Sprintf("PENSTOCK_%s_%d", strings.TrimSpace(nonce), len(w.env))
		w.env = append(w.env, alias+"="+value)
		fmt.Fprintf(&unset, " -u %s", alias)
		fmt.Fprintf(&odd, ` %s="$%s"`, quote(name), alias)
	}
	script := fmt.Sprintf("command -v -- \"$1\" >/dev/null 2>&1 || { echo '%[1]smissing'; exit 127; }\necho '%[1]s'$$\n", nonce)
	if !home { // the daemon sets it
		script += "unset HOME\n"
	}
	if sameWriter(c.Stdout, c.Stderr) && c.Stdout != nil && !c.TTY {
		script += "exec 2>&1\n"
	}
	if odd.Len() > 0 {
		script += "exec env" + unset.String() + odd.String() + " \"$@\"\n"
	} else {
		script += "exec \"$@\"\n"
	}
	w.args = append([]string{"/bin/sh", "-c", script, "sh"}, c.Args...)
	return w
}

// quote makes one word of a text for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
