package job

import (
	"strings"
	"unicode"
)

// command is a workflow command: ::name key=value,key=value::data, or the older ##[name key=value;]data.
type command struct {
	name  string            // lower case
	props map[string]string // by lower-case key
	data  string
}

var (
	unescapeData  = strings.NewReplacer("%0D", "\r", "%0A", "\n", "%25", "%")
	unescapeProps = strings.NewReplacer("%0D", "\r", "%0A", "\n", "%3A", ":", "%2C", ",", "%25", "%")
	unescapeOld   = strings.NewReplacer("%0D", "\r", "%0A", "\n", "%3B", ";", "%5D", "]", "%25", "%")
)

// parseCommand reads a line as a command (actions/runner src/Runner.Common/ActionCommand.cs). A name that known does not
// know makes none.
func parseCommand(line string, known func(name string) bool) (command, bool) {
	if c, ok := parseCommandV2(line, known); ok {
		return c, true
	}
	return parseCommandV1(line, known)
}

func parseCommandV2(line string, known func(name string) bool) (command, bool) {
	body, ok := strings.CutPrefix(strings.TrimLeftFunc(line, unicode.IsSpace), "::")
	if !ok {
		return command{}, false
	}
	info, data, ok := strings.Cut(body, "::")
	if !ok {
		return command{}, false
	}
	name, props, _ := strings.Cut(info, " ")
	if name = strings.ToLower(name); !known(name) {
		return command{}, false
	}
	return command{name, properties(strings.TrimSpace(props), ",", unescapeProps), unescapeData.Replace(data)}, true
}

func parseCommandV1(line string, known func(name string) bool) (command, bool) {
	_, body, ok := strings.Cut(line, "##[")
	if !ok {
		return command{}, false
	}
	info, data, ok := strings.Cut(body, "]")
	if !ok {
		return command{}, false
	}
	name, props, _ := strings.Cut(info, " ")
	if name = strings.ToLower(name); !known(name) {
		return command{}, false
	}
	return command{name, properties(props, ";", unescapeOld), unescapeOld.Replace(data)}, true
}

// properties reads key=value pairs. One without a key or a value is none; blanks belong to the key.
func properties(text, separator string, unescape *strings.Replacer) map[string]string {
	out := map[string]string{}
	for p := range strings.SplitSeq(text, separator) {
		key, value, _ := strings.Cut(strings.TrimLeft(p, "="), "=")
		if value = strings.TrimLeft(value, "="); key != "" && value != "" {
			out[strings.ToLower(key)] = unescape.Replace(value)
		}
	}
	return out
}
