package workflow

import (
	"slices"
	"strconv"
	"strings"
)

// cronField is what one of the five fields of a schedule may hold.
type cronField struct {
	min, max int
	names    []string // stand for min, min+1, ...
}

var cronFields = [5]cronField{
	{0, 59, nil},
	{0, 23, nil},
	{1, 31, nil},
	{1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{0, 6, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

// isCron reports whether a schedule has the form that GitHub takes: five fields of *, numbers, names, a-b, x/step and
// lists of them.
func isCron(s string) bool {
	fields := cronSplit(s)
	if len(fields) != len(cronFields) {
		return false
	}
	for i, f := range fields {
		if !cronFields[i].valid(f) {
			return false
		}
	}
	return true
}

// cronSplit cuts at runs of blanks; a blank at an end leaves an empty field there.
func cronSplit(s string) []string {
	var fields []string
	for s != "" || len(fields) > 0 {
		field, rest, more := strings.Cut(s, " ")
		fields = append(fields, field)
		if !more {
			break
		}
		s = strings.TrimLeft(rest, " ")
		if s == "" {
			return append(fields, "")
		}
	}
	return fields
}

func (f cronField) valid(s string) bool {
	for part := range strings.SplitSeq(s, ",") {
		if !f.validPart(part) {
			return false
		}
	}
	return true
}

func (f cronField) validPart(s string) bool {
	span, step, stepped := strings.Cut(s, "/")
	if stepped && step != "*" {
		if n, ok := f.number(step); !ok || n <= 0 && !f.isName(step) || f.isName(step) {
			return false
		}
	} else if stepped {
		return false
	}
	if span == "*" {
		return true
	}
	first, last, ranged := strings.Cut(span, "-")
	from, ok := f.number(first)
	if !ok || !ranged {
		return ok
	}
	to, ok := f.number(last)
	return ok && to >= from
}

func (f cronField) isName(s string) bool { return slices.Contains(f.names, strings.ToLower(s)) }

// number reads a number or a name within the field's range.
func (f cronField) number(s string) (int, bool) {
	if i := slices.Index(f.names, strings.ToLower(s)); i >= 0 {
		return f.min + i, true
	}
	s = strings.TrimSpace(s) // of a cron in a block scalar
	if s == "" || !onlyDigits(s, "0123456789") || len(s) > 4 {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= f.min && n <= f.max
}

// minuteGap is the least number of minutes between two runs of a valid schedule within an hour, 60 if it runs once.
func minuteGap(cron string) int {
	field := cronSplit(cron)[0]
	var runs [60]bool
	for part := range strings.SplitSeq(field, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			step, _ = strconv.Atoi(stepText) // isCron has checked it
		}
		first, lastText, ranged := strings.Cut(span, "-")
		from, last := 0, 59
		if span != "*" {
			from, _ = strconv.Atoi(first)
			if last = from; ranged {
				last, _ = strconv.Atoi(lastText)
			} else if stepped {
				last = 59
			}
		}
		for m := from; m <= last; m += step {
			runs[m] = true
		}
	}
	return smallestGap(runs)
}

func smallestGap(runs [60]bool) int {
	first, previous, gap := -1, -1, 60
	for m, runs := range runs {
		if !runs {
			continue
		}
		if first < 0 {
			first = m
		} else {
			gap = min(gap, m-previous)
		}
		previous = m
	}
	if previous > first {
		gap = min(gap, first+60-previous)
	}
	return gap
}
