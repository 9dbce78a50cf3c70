package workflow

import (
	"strconv"
	"strings"
)

// writer writes parts as YAML, in one of the many ways there are.
type writer struct {
	*generator
	out strings.Builder
}

func (g *generator) write(p *part) string {
	w := writer{generator: g}
	if g.chance(0.1) {
		w.out.WriteString(g.pick("---\n", "# a comment\n", "\n\n", "--- # x\n", "\uFEFF", "%YAML 1.2\n---\n"))
	}
	w.block(p, 0)
	if g.chance(0.05) {
		w.out.WriteString(g.pick("...\n", "# end\n", "\n", "  \n"))
	}
	return w.out.String()
}

// block writes a part where a new line may begin.
func (w *writer) block(p *part, indent int) {
	if p.kind == yamlScalar || len(p.items) == 0 || w.chance(0.06) {
		w.out.WriteString(strings.Repeat(" ", indent))
		w.flow(p, false)
		w.end()
		return
	}
	for i := 0; i < len(p.items); i++ {
		w.out.WriteString(strings.Repeat(" ", indent))
		if p.kind == yamlSequence {
			w.out.WriteString("-")
			w.after(p.items[i], indent, true)
			continue
		}
		key := p.items[i]
		i++
		if w.chance(0.01) {
			w.out.WriteString("? ")
			w.flow(key, true)
			w.out.WriteString("\n" + strings.Repeat(" ", indent))
		} else {
			w.flow(key, true)
		}
		w.out.WriteString(":")
		w.after(p.items[i], indent, false)
	}
}

// after writes what follows a dash or a colon.
func (w *writer) after(p *part, indent int, dash bool) {
	if p.alias {
		w.out.WriteString(" *" + p.text)
		w.end()
		return
	}
	if p.note != "" {
		w.out.WriteString(" " + p.note)
	}
	step := 2
	if w.chance(0.1) {
		step = 1 + w.IntN(4)
	}
	switch {
	case p.kind != yamlScalar && len(p.items) > 0 && !w.chance(0.06):
		if dash && p.note == "" && p.kind == yamlMapping && w.chance(0.8) {
			var inner strings.Builder
			inner, w.out = w.out, inner
			w.block(p, indent+2)
			inner, w.out = w.out, inner
			w.out.WriteString(" " + strings.TrimPrefix(inner.String(), strings.Repeat(" ", indent+2)))
			return
		}
		w.end()
		if p.kind == yamlSequence && !dash && w.chance(0.4) {
			step = 0
		}
		w.block(p, indent+step)
	case p.kind == yamlScalar && p.raw && p.text == "":
		w.end()
	case p.kind == yamlScalar && !p.raw && w.chance(0.3) && canBlock(p.text):
		w.blockScalar(p.text, indent+step)
	default:
		w.out.WriteString(" ")
		w.flow(p, false)
		w.end()
	}
}

func (w *writer) end() {
	if w.chance(0.03) {
		w.out.WriteString(w.pick(" # note", "  ", " #"))
	}
	w.out.WriteString(w.pick("\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n\n", "\n# c\n", "\r\n"))
}

func canBlock(text string) bool {
	return strings.ContainsAny(text, " \n") && strings.Trim(text, " \n") != "" && text[0] != ' ' && text[0] != '\n' && !strings.ContainsAny(text, "\r\t")
}

func (w *writer) blockScalar(text string, indent int) {
	w.out.WriteString(" " + w.pick("|", "|", ">", "|-", ">-", "|+", ">+"))
	w.out.WriteString(w.pick("", "", "", " # c") + "\n")
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if line != "" {
			w.out.WriteString(strings.Repeat(" ", indent) + line)
		}
		w.out.WriteString("\n")
	}
	if w.chance(0.1) {
		w.out.WriteString("\n")
	}
}

// flow writes a part within a line.
func (w *writer) flow(p *part, key bool) {
	switch {
	case p.alias:
		w.out.WriteString("*" + p.text + " ")
		return
	case p.kind == yamlSequence:
		w.out.WriteString("[")
		for i, item := range p.items {
			w.separate(i, 1)
			w.flow(item, false)
		}
		w.out.WriteString("]")
		return
	case p.kind == yamlMapping:
		w.out.WriteString("{")
		for i, item := range p.items {
			if i%2 == 1 {
				w.out.WriteString(": ")
			} else {
				w.separate(i, 2)
			}
			w.flow(item, i%2 == 0)
		}
		w.out.WriteString("}")
		return
	case p.raw:
		w.out.WriteString(p.text)
		return
	}
	w.scalar(p.text, key)
}

func (w *writer) separate(i, size int) {
	if i >= size {
		w.out.WriteString(w.pick(", ", ", ", ",", " , "))
	}
}

func (w *writer) scalar(text string, key bool) {
	switch {
	case strings.ContainsAny(text, "\n\t\r") || w.chance(0.1) && !strings.ContainsAny(text, "\\"):
		w.out.WriteString(strconv.Quote(text))
	case needsQuotes(text) || w.chance(0.1):
		w.out.WriteString("'" + strings.ReplaceAll(text, "'", "''") + "'")
	case !key && w.chance(0.02) && strings.Contains(text, " ") && !strings.Contains(text, "${{"):
		w.out.WriteString(strings.Replace(text, " ", "\n                    ", 1))
	default:
		w.out.WriteString(text)
	}
}

// needsQuotes reports whether text would be something else, or in a flow collection, without quotes.
func needsQuotes(text string) bool {
	return text == "" || strings.TrimSpace(text) != text || strings.ContainsAny(text, ",[]{}") || strings.Contains(text, ": ") ||
		strings.HasSuffix(text, ":") || strings.Contains(text, " #") || strings.ContainsAny(text[:1], "#&*!|>'\"%@`?-:=<")
}

// mutateText spoils the text of a file.
func (g *generator) mutateText(text string) string {
	for range 1 + g.IntN(2) {
		if text == "" {
			return text
		}
		i := g.IntN(len(text))
		switch g.IntN(6) {
		case 0:
			text = text[:i] + text[i+1:]
		case 1:
			text = text[:i] + g.pick(":", " ", "-", "\n", "'", "\"", "{", "}", "[", "]", ",", "#", "&a ", "*a", "!", "|", ">", "?", "%", "@", "\t", "  ", "${{", "}}", "- ", ": ", "\r\n", "<<: *a\n", "---\n") + text[i:]
		case 2:
			lines := strings.SplitAfter(text, "\n")
			j := g.IntN(len(lines))
			text = strings.Join(append(lines[:j:j], append([]string{lines[g.IntN(len(lines))]}, lines[j:]...)...), "")
		case 3:
			lines := strings.SplitAfter(text, "\n")
			j := g.IntN(len(lines))
			text = strings.Join(append(lines[:j:j], lines[min(j+1, len(lines)):]...), "")
		case 4:
			lines := strings.SplitAfter(text, "\n")
			j := g.IntN(len(lines))
			lines[j] = g.pick(" ", "  ", "\t") + lines[j]
			text = strings.Join(lines, "")
		default:
			lines := strings.SplitAfter(text, "\n")
			j := g.IntN(len(lines))
			lines[j] = strings.TrimPrefix(lines[j], g.pick(" ", "  "))
			text = strings.Join(lines, "")
		}
	}
	return strings.ToValidUTF8(text, "")
}
