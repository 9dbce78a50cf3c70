package expr

import (
	"fmt"
	"strconv"
	"strings"
)

// layout is a format string taken apart, for how many arguments it was given.
type layout struct {
	parts []part
	err   error // of the format string; it shows when the format is evaluated
}

// part is a piece of a format string: text, or the place of an argument.
type part struct {
	text string
	arg  int // -1 for text
	// specifiers is what follows a colon in the place of an argument. GitHub reads it and then refuses it.
	specifiers string
}

func callFormat(ev *evaluation, n *node, level int) (Value, error) {
	plan := n.format
	if plan == nil {
		v, err := ev.eval(n.args[0], level+1)
		if err != nil {
			return Value{}, err
		}
		plan = newLayout(v.Text(), len(n.args)-1)
	}
	if plan.err != nil {
		return Value{}, plan.err
	}
	return ev.fill(plan, n, level)
}

// fill evaluates each argument when its first place comes, and once.
func (ev *evaluation) fill(plan *layout, n *node, level int) (Value, error) {
	var text strings.Builder
	var size counter
	given := make([]*Value, len(n.args)-1)
	for _, p := range plan.parts {
		s := p.text
		if p.arg >= 0 {
			if given[p.arg] == nil {
				v, err := ev.eval(n.args[p.arg+1], level+1)
				if err != nil {
					return Value{}, err
				}
				given[p.arg] = &v
			}
			if p.specifiers != "" {
				return Value{}, fmt.Errorf("The format specifiers '%s' are not valid for objects of type '%s'", p.specifiers, titleOfCode[given[p.arg].code])
			}
			s = given[p.arg].Text()
		}
		if s == "" {
			continue
		}
		if err := size.addString(s); err != nil {
			return Value{}, err
		}
		text.WriteString(s)
	}
	return String(text.String()), nil
}

// newLayout reads a format string: {N} is an argument, {{ and }} are braces.
func newLayout(format string, args int) *layout {
	l := &layout{}
	invalid := fmt.Errorf("The following format string is invalid: %s", format)
	for rest := format; rest != ""; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			l.addText(rest)
			return l
		}
		if i+1 < len(rest) && rest[i+1] == rest[i] {
			l.addText(rest[:i+1])
			rest = rest[i+2:]
			continue
		}
		if rest[i] == '}' {
			return &layout{err: invalid}
		}
		p, length := readPlace(rest[i:])
		if length == 0 {
			return &layout{err: invalid}
		}
		if p.arg >= args {
			return &layout{err: fmt.Errorf("The following format string references more arguments than were supplied: %s", format)}
		}
		l.addText(rest[:i])
		l.parts = append(l.parts, p)
		rest = rest[i+length:]
	}
	return l
}

func (l *layout) addText(s string) {
	if s != "" {
		l.parts = append(l.parts, part{text: s, arg: -1})
	}
}

// readPlace reads {N} or {N:specifiers} at the start of s and gives its length, 0 if it is neither.
func readPlace(s string) (part, int) {
	end := skipDigits(s, 1)
	n, err := strconv.ParseUint(s[1:end], 10, 8)
	if err != nil || end == len(s) {
		return part{}, 0
	}
	if s[end] == '}' {
		return part{arg: int(n)}, end + 1
	}
	if s[end] != ':' {
		return part{}, 0
	}
	var specifiers []byte
	for i := end + 1; i < len(s); i++ {
		if s[i] == '}' {
			if i+1 == len(s) || s[i+1] != '}' {
				return part{arg: int(n), specifiers: string(specifiers)}, i + 1
			}
			i++
		}
		specifiers = append(specifiers, s[i])
	}
	return part{}, 0
}
