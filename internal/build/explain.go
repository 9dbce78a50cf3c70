package build

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// Error is a Dockerfile's mistake or a step that failed, with its place.
type Error struct {
	File  string
	Line  int    // the first of the step's, from 1; 0 if it is not known
	Lines string // the file around it, as BuildKit shows it
	Step  string // the step that failed, as progress names it; empty for a mistake
	Tail  []string
	Err   error
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Print writes the end of what the step said and the lines of the Dockerfile, as `docker buildx build` does before its
// last line, which is the error's own: ERROR: failed to build: failed to solve: ...
func (e *Error) Print(out io.Writer) {
	if e.Step != "" && len(e.Tail) > 0 {
		fmt.Fprintf(out, "------\n > %s:\n", e.Step)
		for _, line := range e.Tail {
			fmt.Fprintln(out, line)
		}
		fmt.Fprintln(out, "------")
	}
	if e.Line > 0 {
		fmt.Fprintf(out, "%s:%d\n%s", e.File, e.Line, e.Lines)
	}
}

// failure is what a step's command came to.
type failure struct {
	tail []string
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// warn takes a warning of the frontend's linter.
func (w *work) warn(rule, _, _, message string, at []parser.Range) {
	line := 0
	if len(at) > 0 {
		line = at[0].Start.Line
	}
	w.addWarning(linter.LintFormatShort(rule, message, line))
}

func (w *work) addWarning(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warnings = append(w.warnings, text)
}

// note tells something that is not as the user may think.
func (w *work) note(format string, args ...any) {
	w.p.note(fmt.Sprintf(format, args...))
}

// explain puts the place to an error of the frontend.
func (w *work) explain(err error) error {
	var placed *Error
	if errors.As(err, &placed) {
		return err
	}
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
	e := &Error{File: w.r.Name, Err: fmt.Errorf("%s: %w", v.name, err)}
	if where := w.source.GetLocations()[v.digest]; where != nil && len(where.Locations) > 0 {
		e = w.located(err, where.Locations[0].Ranges)
	}
	e.Step = v.name
	var failed *failure
	if errors.As(err, &failed) {
		e.Tail = failed.tail
	}
	return e
}

// located is BuildKit's way to show lines (solver/errdefs.Source), so that errors look as they do there.
func (w *work) located(err error, ranges []*pb.Range) *Error {
	e := &Error{File: w.r.Name, Err: err}
	if len(ranges) == 0 {
		return e
	}
	var b strings.Builder
	s := &errdefs.Source{Info: &pb.SourceInfo{Filename: w.r.Name, Data: w.text}, Ranges: ranges}
	if s.Print(&b) != nil || b.Len() == 0 {
		return e
	}
	e.Line = int(ranges[0].Start.GetLine())
	_, e.Lines, _ = strings.Cut(b.String(), "\n")
	return e
}
