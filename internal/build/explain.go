package build

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// Error is a Dockerfile's mistake or a step that failed, with its place.
type Error struct {
	File  string
	Line  int    // the first of the step's, from 1; 0 if it is not known
	Lines string // the file around it, as BuildKit shows it
	Err   error
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d\n%s%s:%d: %v", e.File, e.Line, e.Lines, e.File, e.Line, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// warn takes a warning of the frontend's linter.
func (w *work) warn(rule, description, url, message string, at []parser.Range) {
	line := 0
	if len(at) > 0 {
		line = at[0].Start.Line
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warnings = append(w.warnings, fmt.Sprintf("%s: %s (line %d)", rule, message, line))
}

// explain puts the place to an error of the frontend.
func (w *work) explain(err error) error {
	if sources := errdefs.Sources(err); len(sources) > 0 {
		return w.located(err, sources[0].Ranges)
	}
	var in *parser.LocationError
	if errors.As(err, &in) && len(in.Locations) > 0 {
		var ranges []*pb.Range
		for _, r := range in.Locations[0] {
			ranges = append(ranges, &pb.Range{Start: &pb.Position{Line: int32(r.Start.Line)}, End: &pb.Position{Line: int32(r.End.Line)}})
		}
		return w.located(err, ranges)
	}
	return &Error{File: w.r.Name, Err: err}
}

// at puts the place of a step to its error.
func (w *work) at(v *vertex, err error) error {
	var placed *Error
	if err == nil || errors.As(err, &placed) {
		return err
	}
	if where := w.source.GetLocations()[v.digest]; where != nil && len(where.Locations) > 0 {
		return w.located(err, where.Locations[0].Ranges)
	}
	return &Error{File: w.r.Name, Err: fmt.Errorf("%s: %w", v.name, err)}
}

// around is how many lines are shown before and after.
const around = 2

func (w *work) located(err error, ranges []*pb.Range) error {
	e := &Error{File: w.r.Name, Err: err}
	if len(ranges) == 0 {
		return e
	}
	first, last := int(ranges[0].Start.GetLine()), int(ranges[len(ranges)-1].End.GetLine())
	lines := strings.Split(string(w.r.Dockerfile), "\n")
	if first < 1 || first > len(lines) {
		return e
	}
	e.Line = first
	var b strings.Builder
	b.WriteString("--------------------\n")
	for n := max(first-around, 1); n <= min(last+around, len(lines)); n++ {
		mark := "   "
		if n >= first && n <= last {
			mark = ">>>"
		}
		fmt.Fprintf(&b, "%4d | %s %s\n", n, mark, strings.TrimRight(lines[n-1], "\r"))
	}
	b.WriteString("--------------------\n")
	e.Lines = b.String()
	return e
}
