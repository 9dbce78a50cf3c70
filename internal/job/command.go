package job

import (
	"strings"
)

// command is a workflow command: ::name key=value,key=value::data, or the older ##[name key=value;]data.
type command struct {
	name  string
	props map[string]string // by lower-case key
	data  string
}

var (
	unescapeData  = strings.NewReplacer("%0D", "\r", "%0A", "\n", "%25", "%")
	unescapeProps = strings.NewReplacer("%0D", "\r", "%0A", "\n", "%3A", ":", "%2C", ",", "%25", "%")
	unescapeOld   = strings.NewReplacer("%0D", "\r", "%0A", "\n", "%3B", ";", "%5D", "]", "%25", "%")
)

// parseCommand reads a line as a command (actions/runner src/Runner.Common/ActionCommand.cs).
func parseCommand(line string) (command, bool) {
	if trimmed := strings.TrimLeft(line, " \t"); strings.HasPrefix(trimmed, "::") {
		return parseCommandV2(trimmed)
	}
	return parseCommandV1(line)
}

func parseCommandV2(line string) (command, bool) {
	info, data, ok := strings.Cut(line[2:], "::")
	if !ok {
		return command{}, false
	}
	name, rest, _ := strings.Cut(info, " ")
	if name == "" {
		return command{}, false
	}
	c := command{name: strings.ToLower(name), props: map[string]string{}, data: unescapeData.Replace(data)}
	for _, p := range strings.Split(strings.TrimSpace(rest), ",") {
		if key, value, ok := strings.Cut(p, "="); ok && key != "" && value != "" {
			c.props[strings.ToLower(strings.TrimSpace(key))] = unescapeProps.Replace(value)
		}
	}
	return c, true
}

func parseCommandV1(line string) (command, bool) {
	start := strings.Index(line, "##[")
	if start < 0 {
		return command{}, false
	}
	info, data, ok := strings.Cut(line[start+3:], "]")
	if !ok {
		return command{}, false
	}
	name, rest, _ := strings.Cut(info, " ")
	if name == "" {
		return command{}, false
	}
	c := command{name: strings.ToLower(name), props: map[string]string{}, data: unescapeOld.Replace(data)}
	for _, p := range strings.Split(strings.TrimSpace(rest), ";") {
		if key, value, ok := strings.Cut(p, "="); ok && key != "" && value != "" {
			c.props[strings.ToLower(strings.TrimSpace(key))] = unescapeOld.Replace(value)
		}
	}
	return c, true
}
