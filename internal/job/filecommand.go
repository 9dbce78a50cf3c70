package job

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// pair is one assignment of a command file.
type pair struct{ name, value string }

// parsePairs reads GITHUB_ENV, GITHUB_OUTPUT or GITHUB_STATE: NAME=VALUE lines and NAME<<DELIMITER ... DELIMITER blocks
// (actions/runner src/Runner.Worker/FileCommandManager.cs). As in the runner off Windows, a line ends with LF alone: a CR
// before it belongs to the value. With an error, which is in the runner's words, come the pairs before it.
func parsePairs(data []byte) ([]pair, error) {
	text := fileText(data)
	var out []pair
	for at := 0; ; {
		line, _, ok := nextLine(text, &at)
		if !ok {
			return out, nil
		}
		if line == "" {
			continue
		}
		equals, heredoc := strings.Index(line, "="), strings.Index(line, "<<")
		switch {
		case equals >= 0 && (heredoc < 0 || equals < heredoc):
			out = append(out, pair{line[:equals], line[equals+1:]})
		case heredoc >= 0:
			name, delimiter := line[:heredoc], line[heredoc+2:]
			if name == "" || delimiter == "" {
				return out, fmt.Errorf("Invalid format '%s'. Name must not be empty and delimiter must not be empty", line)
			}
			value, err := readBlock(text, &at, delimiter)
			if err != nil {
				return out, err
			}
			out = append(out, pair{name, value})
		default:
			return out, fmt.Errorf("Invalid format '%s'", line)
		}
	}
}

// readBlock reads the lines up to a delimiter; the last line feed is not part of the value.
func readBlock(text string, at *int, delimiter string) (string, error) {
	start, end := *at, *at
	for {
		line, ended, ok := nextLine(text, at)
		switch {
		case !ok:
			return "", fmt.Errorf("Invalid value. Matching delimiter not found '%s'", delimiter)
		case line == delimiter:
			return text[start:end], nil
		case !ended:
			return "", errors.New("Invalid value. EOF marker missing new line.")
		}
		end = *at - 1
	}
}

// nextLine takes a line off text at at; ended is false for the last one if no line feed follows it.
func nextLine(text string, at *int) (line string, ended, ok bool) {
	if *at >= len(text) {
		return "", false, false
	}
	line, _, ended = strings.Cut(text[*at:], "\n")
	*at += len(line)
	if ended {
		*at++
	}
	return line, ended, true
}

// parsePaths reads GITHUB_PATH: one directory a line.
func parsePaths(data []byte) []string {
	var out []string
	for line := range strings.FieldsFuncSeq(fileText(data), func(r rune) bool { return r == '\r' || r == '\n' }) {
		out = append(out, line)
	}
	return out
}

// fileText makes text of a file's bytes: a byte order mark is dropped, what is not UTF-8 replaced.
func fileText(data []byte) string {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if utf8.Valid(data) {
		return string(data)
	}
	return strings.ToValidUTF8(string(data), "\uFFFD")
}
