package job

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// pair is one assignment of a command file.
type pair struct{ name, value string }

// parsePairs reads GITHUB_ENV, GITHUB_OUTPUT or GITHUB_STATE: NAME=VALUE lines and NAME<<DELIMITER ... DELIMITER blocks
// (actions/runner src/Runner.Worker/FileCommandManager.cs). The errors are the runner's.
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
				return nil, fmt.Errorf("Invalid format '%s'. Name must not be empty and delimiter must not be empty", line)
			}
			value, err := readBlock(text, &at, delimiter)
			if err != nil {
				return nil, err
			}
			out = append(out, pair{name, value})
		default:
			return nil, fmt.Errorf("Invalid format '%s'", line)
		}
	}
}

// readBlock reads the lines up to a delimiter; the last line feed is not part of the value.
func readBlock(text string, at *int, delimiter string) (string, error) {
	start, end := *at, *at
	for {
		line, newline, ok := nextLine(text, at)
		switch {
		case !ok:
			return "", fmt.Errorf("Invalid value. Matching delimiter not found '%s'", delimiter)
		case line == delimiter:
			return text[start:max(start, end)], nil
		case newline == "":
			return "", fmt.Errorf("Invalid value. EOF marker missing new line.")
		}
		end = *at - len(newline)
	}
}

// nextLine takes a line off text at at; newline is what ended it, empty at the end of the text.
func nextLine(text string, at *int) (line, newline string, ok bool) {
	if *at >= len(text) {
		return "", "", false
	}
	rest := text[*at:]
	i := strings.IndexByte(rest, '\n')
	if i < 0 {
		*at = len(text)
		return rest, "", true
	}
	*at += i + 1
	if i > 0 && rest[i-1] == '\r' {
		return rest[:i-1], "\r\n", true
	}
	return rest[:i], "\n", true
}

// parsePaths reads GITHUB_PATH: one directory a line.
func parsePaths(data []byte) []string {
	var out []string
	for line := range strings.Lines(fileText(data)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			out = append(out, line)
		}
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
