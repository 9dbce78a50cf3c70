package native

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
)

// matcher is a problem matcher in the runner's form.
type matcher struct {
	Owner   string         `json:"owner"`
	Pattern []matchPattern `json:"pattern"`
}

type matchPattern struct {
	Regexp   string `json:"regexp"`
	File     int    `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Severity int    `json:"severity,omitempty"`
	Code     int    `json:"code,omitempty"`
	Message  int    `json:"message,omitempty"`
	Loop     bool   `json:"loop,omitempty"`
}

// The matchers that the originals add, with the owners that they have there.
var (
	matchTSC = matcher{"tsc", []matchPattern{{
		Regexp: `^(\S.*?)[(:](\d+)[,:](\d+)\)?(?::|\s+-)\s+(error|warning|info)\s+TS(\d+)\s*:\s*(.+)$`,
		File:   1, Line: 2, Column: 3, Severity: 4, Code: 5, Message: 6,
	}}}
	matchESLintStylish = matcher{"eslint-stylish", []matchPattern{
		{Regexp: `^\s*(\S.*)$`, File: 1},
		{Regexp: `^\s+(\d+):(\d+)\s+(error|warning|info)\s+(.*?)\s{2,}(\S+)\s*$`, Line: 1, Column: 2, Severity: 3, Message: 4, Code: 5, Loop: true},
	}}
	matchESLintCompact = matcher{"eslint-compact", []matchPattern{{
		Regexp: `^(.+):\sline\s(\d+),\scol\s(\d+),\s([Ee]rror|[Ww]arning|[Ii]nfo)\s-\s(.+)\s\(([^()]+)\)$`,
		File:   1, Line: 2, Column: 3, Severity: 4, Message: 5, Code: 6,
	}}}
	matchPython = matcher{"python", []matchPattern{
		{Regexp: `^\s*File\s"(.*)",\sline\s(\d+),\sin\s.*$`, File: 1, Line: 2},
		{Regexp: `^\s*raise\s.*\('(.*)'\)$`, Message: 1},
	}}
	matchGo = matcher{"go", []matchPattern{{
		Regexp: `^\s*(.+\.go):(?:(\d+):(\d+):)?\s(.*)$`,
		File:   1, Line: 2, Column: 3, Message: 4,
	}}}
)

// addMatchers registers problem matchers; the runner reads their files from the machine.
func (s *Step) addMatchers(ctx context.Context, matchers ...matcher) error {
	var files []file
	for _, m := range matchers {
		text, err := json.Marshal(map[string]any{"problemMatcher": []matcher{m}})
		if err != nil {
			return err
		}
		files = append(files, file{name: m.Owner + ".json", data: string(text)})
	}
	dir := path.Join(s.Sandbox.Info().Temp, "_matchers")
	if err := s.put(ctx, dir, files...); err != nil {
		return fmt.Errorf("add problem matchers: %w", err)
	}
	for _, f := range files {
		s.info("::add-matcher::%s", path.Join(dir, f.name))
	}
	return nil
}
