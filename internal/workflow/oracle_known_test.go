package workflow

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/penstock-ci/penstock/internal/expr"
)

// difference is a way in which GitHub's TypeScript parser is not GitHub's: it edits both answers so that the rest of
// them can be compared.
type difference struct {
	name  string
	apply func(c oracleCase, ours, theirs *answer)
}

// differences are applied in this order. "C#" is the code that runs on github.com and in its runner (actions/runner
// src/Sdk/WorkflowParser), which this package follows where the two differ.
var differences = []difference{
	{"the words for a mistake in YAML are those of another YAML library", yamlWords},
	{"TypeScript counts the byte order mark as a column", func(c oracleCase, _, theirs *answer) {
		if strings.HasPrefix(c.text, "\uFEFF") {
			theirs.move(func(p Pos) Pos {
				if p.Line == 1 {
					p.Column--
				}
				return p
			})
		}
	}},
	{"TypeScript's YAML wants the lines of a flow collection indented, C#'s does not", onlyTheirYAML("Flow * in block collection must be sufficiently indented")},
	{"TypeScript's YAML wants the lines of a quoted scalar indented, C#'s does not", onlyTheirYAML("Missing closing *quote")},
	{"TypeScript's YAML takes a second mark of the document's end for another document", onlyTheirYAML("Source contains multiple documents")},
	{"TypeScript's YAML wants a blank before a comment", func(c oracleCase, ours, theirs *answer) {
		said := func(m mistake) bool { return strings.HasPrefix(m.message, "Comments must be separated") }
		if theirs.Tree == nil && slices.ContainsFunc(theirs.Errors, said) && !isYAMLFault(c) {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"TypeScript's YAML wants no sequence in the line of an empty key", onlyTheirYAML("Unexpected block-seq-ind on same line with key")},
	{"TypeScript's YAML takes no version but its own", onlyTheirYAML("Unsupported YAML version")},
	{"TypeScript's YAML takes no tab in the last line, even if there is nothing else", func(c oracleCase, ours, theirs *answer) {
		lines := strings.Split(c.text, "\n")
		last := lines[len(lines)-1]
		if theirs.Tree == nil && len(theirs.Errors) > 0 && theirs.Errors[0].Line == len(lines) && last != "" && strings.Trim(last, " \t") == "" &&
			strings.HasPrefix(theirs.Errors[0].message, "Tabs are not allowed as indentation") && !isYAMLFault(c) {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"C#'s YAML takes no tab for indentation, TypeScript's some", onlyOurYAML("While scanning for the next token, find a tab")},
	{"TypeScript's YAML takes a key of several lines within {}", onlyOurYAML("While parsing a flow *, did not find expected ','")},
	{"TypeScript's YAML ends a quoted scalar at an escaped quote before a line that is not indented", func(c oracleCase, ours, theirs *answer) {
		if theirs.Tree != nil && isYAMLFault(c) && escapedQuoteAtEnd.MatchString(c.text) {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"TypeScript's YAML ends a quoted scalar at a doubled quote before a line that is not indented", func(c oracleCase, ours, theirs *answer) {
		if theirs.Tree == nil && len(theirs.Errors) > 0 && !isYAMLFault(c) && followsDoubledQuote(c.text, theirs.Errors[0]) {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"C#'s YAML takes no tab for the indentation of a block scalar, TypeScript's does", onlyOurYAML("While scanning a block scalar, find a tab")},
	{"TypeScript's YAML passes over a byte order mark at the beginning of any line", func(c oracleCase, ours, theirs *answer) {
		if strings.Contains(c.text, "\n\uFEFF") {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"C#'s YAML takes a lone carriage return for a line break", func(c oracleCase, ours, theirs *answer) {
		if strings.Contains(strings.ReplaceAll(c.text, "\r\n", ""), "\r") {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"TypeScript's YAML takes a colon that is not under its question mark", func(c oracleCase, ours, theirs *answer) {
		if theirs.Tree != nil && isYAMLFault(c) && explicitKey.MatchString(c.text) {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"TypeScript's YAML wants nothing nested in the line of a key", onlyTheirYAML("Nested mappings are not allowed in compact mappings")},
	{"TypeScript passes over an alias of nothing", onlyOurYAML("Unknown anchor")},
	{"C# marks a node where its anchor or tag begins, TypeScript where its content does", markContent},
	{"TypeScript marks an expression in quotes at its ${{, C# the scalar", func(_ oracleCase, ours, theirs *answer) {
		walkTrees(ours.Tree, theirs.Tree, func(ours, theirs []any) {
			if ours[2] == "expression" && theirs[2] == "expression" {
				theirs[0], theirs[1] = ours[0], ours[1]
			}
		})
		for _, list := range [][]mistake{theirs.Errors, theirs.Late} {
			for i, m := range list {
				if (m.message == "Unexpected value '${{ insert }}'" || m.message == sayNoExpression) && slices.ContainsFunc(ours.Errors, func(o mistake) bool {
					return o.message == m.message && o.Line == m.Line && o.Column == m.Column-1
				}) {
					list[i].Column--
				}
			}
		}
	}},
	{"TypeScript gives steps of actions no IDs", func(c oracleCase, ours, theirs *answer) {
		if c.action {
			ours.late("The identifier '")
			dropStepIDs(ours.Model)
			dropStepIDs(theirs.Model)
		}
	}},
	{"TypeScript marks an empty value after the blanks behind its key", alignEmpty},
	{"TypeScript trims a condition", func(_ oracleCase, ours, theirs *answer) {
		trimConditions(ours.Model)
		trimConditions(theirs.Model)
	}},
	{"TypeScript breaks off at a key that is no string or has no value", func(_ oracleCase, ours, theirs *answer) {
		broken := []string{"raw.indexOf is not a function", "Expected a scalar value, a sequence, or a mapping", "Expected mapping end"}
		if slices.ContainsFunc(theirs.Errors, func(m mistake) bool { return m.Line == 0 && slices.Contains(broken, m.message) }) && len(ours.Errors)+len(theirs.Errors) > 0 {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"TypeScript calls an empty key null and marks it elsewhere", func(_ oracleCase, ours, theirs *answer) {
		if slices.ContainsFunc(theirs.Errors, func(m mistake) bool { return m.message == "Unexpected value 'null'" }) {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"C# finds two empty keys equal", func(_ oracleCase, ours, theirs *answer) {
		for _, m := range ours.Errors {
			if m.message == "'' is already defined" {
				dropValueAt(theirs, m.Pos) // C# does not read it
			}
		}
		ours.reword(func(m string) string { return strings.Replace(m, "'' is already defined", "Unexpected value ''", 1) })
	}},
	{"C# compares the IDs of jobs and steps without case", func(_ oracleCase, ours, theirs *answer) {
		if hasFoldedIDs(ours.Model) {
			for _, a := range []*answer{ours, theirs} {
				a.late("Job '", "The workflow must contain at least one job", "The identifier '*' may not be used more than once", "Step references unknown")
			}
			ours.Model, theirs.Model = nil, nil // the numbers in made up IDs may differ
		}
	}},
	{"TypeScript does not know the type number of inputs", func(_ oracleCase, ours, _ *answer) { dropNumberTypes(ours.Model) }},
	{"TypeScript cuts a scalar of several lines out of the file with its indentation and quotes", multilineSources},
	{"C# writes numbers with 15 digits", func(_ oracleCase, ours, theirs *answer) {
		walkTrees(ours.Tree, theirs.Tree, func(ours, theirs []any) {
			a, okA := ours[3].(string)
			b, okB := theirs[3].(string)
			x, errX := strconv.ParseFloat(a, 64)
			y, errY := strconv.ParseFloat(b, 64)
			if okA && okB && errX == nil && errY == nil && expr.Number(x).Text() == expr.Number(y).Text() {
				theirs[3] = a
			}
		})
	}},
	{"C# takes the kind of an action without case", func(c oracleCase, ours, theirs *answer) {
		if model, ok := ours.Model.(map[string]any); ok && c.action && !strings.Contains(c.text, model["using"].(string)) {
			ours.Model, theirs.Model = nil, nil
		}
	}},
	{"C# says where in an expression a fault is", dropLocations},
	{"the words for a fault in an expression are compared where expressions are (internal/expr)", func(_ oracleCase, ours, theirs *answer) {
		plain := func(m string) string {
			if expressionFault.MatchString(m) {
				return "fault in an expression"
			}
			return m
		}
		ours.reword(plain)
		theirs.reword(plain)
	}},
	{"C# stops at the first fault of a scalar, TypeScript lists those of all its expressions", firstFaults},
	{"the words for a key that is an expression", func(_ oracleCase, ours, theirs *answer) {
		theirs.reword(func(m string) string { return strings.Replace(m, "'concurrency group key'", "'concurrency key'", 1) })
		ours.late("Unexpected type '*' encountered while reading 'job snapshot key'")
		ours.late("Unexpected type 'BasicExpressionToken' encountered while reading '")
	}},
	{"the TypeScript message on IDs says 'and' twice", func(_ oracleCase, _, theirs *answer) {
		theirs.reword(func(m string) string { return strings.Replace(m, "and and must", "and must", 1) })
	}},
	{"C# takes needs and vars in the conditions of actions, and all contexts in pre-if and post-if", func(c oracleCase, ours, theirs *answer) {
		if c.action {
			before := len(theirs.Late)
			theirs.Late = slices.DeleteFunc(theirs.Late, func(m mistake) bool { return m.message == "fault in an expression" && !slices.Contains(ours.Late, m) })
			if len(theirs.Late) < before {
				ours.Model, theirs.Model = nil, nil
			}
		}
	}},
	{"C# takes any scalar as the default of a string input, and of a called workflow's says what it says of values", func(_ oracleCase, ours, theirs *answer) {
		theirs.late("Unexpected type '*' encountered while reading 'input default'")
		ours.late("Unexpected value '", "Unexpected type '*' encountered while reading 'input default'")
	}},
	{"C# grants snapshots the contexts of the job", func(_ oracleCase, ours, theirs *answer) {
		tree := ours.Tree
		dropSpare(ours, theirs, func(m mistake) bool {
			under := isUnder(tree, m.Pos, "snapshot") || isUnder(tree, Pos{m.Line, m.Column - 1}, "snapshot")
			return m.message == "Required property is missing: image-name" ||
				under && (m.message == "fault in an expression" || m.message == sayNoExpression || strings.HasPrefix(m.message, "Unexpected value '") && strings.Contains(m.message, "${{"))
		})
	}},
	{"C# looks at images when it converts, and a job's container may have none", func(_ oracleCase, ours, theirs *answer) {
		tree := ours.Tree
		dropSpare(ours, theirs, func(m mistake) bool {
			return m.message == "Unexpected value ''" && (isUnder(tree, m.Pos, "services") || isUnder(tree, m.Pos, "container"))
		})
		ours.late("Container image cannot be empty")
		theirs.late("Container image cannot be empty")
	}},
	{"C# and github.com check more when they convert", func(c oracleCase, ours, theirs *answer) {
		if before := len(ours.Late); true {
			ours.late("Top level 'runs:'", "'using: ", "You are using a ", "Missing 'using' value", "you may only define one of `", "Expected format ", "Invalid workflow reference ", "Matrix ", "The strategy configuration ", "Concurrency group name ")
			if len(ours.Late) < before && c.action {
				ours.Model, theirs.Model = nil, nil
			}
		}
	}},
	{"TypeScript does not convert what is an expression where C# evaluates it later", func(_ oracleCase, ours, theirs *answer) {
		if before := len(theirs.Late); true {
			theirs.late("Unexpected type 'BasicExpressionToken' encountered while reading '", "Unexpected type 'InsertExpressionToken' encountered while reading 'job environment key'")
			if len(theirs.Late) < before {
				ours.Model, theirs.Model = nil, nil // it goes on without the job or step
			}
		}
	}},
	{"TypeScript does not know the word repository_dispatch, by a slip in its schema", func(_ oracleCase, ours, theirs *answer) {
		for _, a := range []*answer{ours, theirs} {
			a.Errors = slices.DeleteFunc(a.Errors, func(m mistake) bool { return m.message == "Unexpected value 'repository_dispatch'" })
		}
	}},
	{"TypeScript sets a quote of a message wrong", func(_ oracleCase, _, theirs *answer) {
		theirs.reword(func(m string) string {
			return misplacedQuote.ReplaceAllString(m, "$1'$2")
		})
	}},
	{"TypeScript lets any tag and any size of number pass", func(_ oracleCase, ours, _ *answer) {
		ours.Errors = slices.DeleteFunc(ours.Errors, func(m mistake) bool {
			return strings.HasPrefix(m.message, "Unexpected tag '") || strings.HasPrefix(m.message, "The scalar style ") || strings.HasPrefix(m.message, "The value '")
		})
	}},
	{"TypeScript passes over an alias within its own anchor, and has no limits", func(_ oracleCase, ours, theirs *answer) {
		if slices.ContainsFunc(ours.Errors, func(m mistake) bool { return m.message == sayDepth || m.message == sayNodes }) {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"the words for an empty file", func(_ oracleCase, ours, theirs *answer) {
		if len(ours.Errors) == 1 && ours.Errors[0].message == sayEmpty && theirs.Tree == nil && len(theirs.Errors) == 1 {
			*ours, *theirs = answer{}, answer{}
		}
	}},
	{"the words for a key that is no scalar", func(_ oracleCase, ours, theirs *answer) {
		ours.reword(func(m string) string { return strings.Replace(m, sayScalarKey, "Unexpected value 'undefined'", 1) })
	}},
	{"TypeScript marks a mapping that is a key at its colon", func(c oracleCase, ours, theirs *answer) {
		for i, m := range theirs.Errors {
			if i < len(ours.Errors) && m.message == "Unexpected value 'undefined'" && isColon(c.text, m.Pos) &&
				ours.Errors[i].message == m.message && ours.Errors[i].Line == m.Line && ours.Errors[i].Column < m.Column {
				theirs.Errors[i].Pos = ours.Errors[i].Pos
			}
		}
	}},
	{"after mistakes of reading, GitHub converts nothing; this package goes on, to list more", func(_ oracleCase, ours, theirs *answer) {
		if len(ours.Errors)+len(theirs.Errors) > 0 || theirs.Model == nil {
			ours.Late, theirs.Late, ours.Model, theirs.Model = nil, nil, nil, nil
		}
	}},
}

var expressionFault = regexp.MustCompile(`^(Unrecognized |Unexpected symbol|Unexpected end of expression|Too (few|many) parameters|An expression was expected|The expression is not closed|Exactly 0 parameter|The directive 'insert'|Even number)`)

var (
	escapedQuoteAtEnd = regexp.MustCompile(`\\"\r?\n`)
	explicitKey       = regexp.MustCompile(`(?m)^[ -]*\? `)
	misplacedQuote    = regexp.MustCompile(`^(Invalid runs-on group name '.*)(\. Please use .*\.)'$`)
)

// isYAMLFault reports whether this package finds a file to be no YAML.
func isYAMLFault(c oracleCase) bool {
	_, mistake := readYAML([]byte(c.text))
	return mistake != nil
}

func yamlWords(c oracleCase, ours, theirs *answer) {
	if theirs.Tree == nil && len(theirs.Errors) > 0 && isYAMLFault(c) {
		*ours, *theirs = answer{}, answer{}
	}
}

// onlyTheirYAML is the difference that the oracle refuses a file as YAML with such a message and we do not.
func onlyTheirYAML(beginning string) func(oracleCase, *answer, *answer) {
	return func(c oracleCase, ours, theirs *answer) {
		if theirs.Tree == nil && len(theirs.Errors) > 0 && beginsWith(theirs.Errors[0].message, beginning) && !isYAMLFault(c) {
			*ours, *theirs = answer{}, answer{}
		}
	}
}

// onlyOurYAML is the reverse.
func onlyOurYAML(beginning string) func(oracleCase, *answer, *answer) {
	return func(c oracleCase, ours, theirs *answer) {
		if theirs.Tree != nil && isYAMLFault(c) && beginsWith(ours.Errors[0].message, beginning) {
			*ours, *theirs = answer{}, answer{}
		}
	}
}

// markContent moves our marks of nodes to the first token that is neither anchor nor tag.
func markContent(c oracleCase, ours, _ *answer) {
	moved := map[Pos]Pos{}
	s := newScanner([]byte(c.text))
	var begin *mark
	for t := s.next(); t.kind != tokenEnd; t = s.next() {
		switch {
		case t.kind == tokenAnchor || t.kind == tokenTag:
			if begin == nil {
				begin = &t.start
			}
		case begin != nil:
			moved[begin.pos()] = t.start.pos()
			begin = nil
		}
	}
	ours.move(func(p Pos) Pos {
		if to, ok := moved[p]; ok {
			return to
		}
		return p
	})
}

// move gives everything in an answer another place.
func (a *answer) move(to func(Pos) Pos) {
	for _, list := range [][]mistake{a.Errors, a.Late} {
		for i := range list {
			list[i].Pos = to(list[i].Pos)
		}
	}
	walkTrees(a.Tree, a.Tree, func(node, _ []any) {
		p := to(Pos{int(node[0].(float64)), int(node[1].(float64))})
		node[0], node[1] = float64(p.Line), float64(p.Column)
	})
}

// hasFoldedIDs reports whether there are names in a model that are equal only without case.
func hasFoldedIDs(model any) bool {
	seen := map[string]string{}
	var walk func(v any) bool
	note := func(name string) bool {
		folded := strings.ToUpper(name)
		before, ok := seen[folded]
		seen[folded] = name
		return ok && before != name
	}
	walk = func(v any) bool {
		switch v := v.(type) {
		case []any:
			return slices.ContainsFunc(v, walk)
		case map[string]any:
			for _, key := range []string{"id", "cancel"} {
				if id, ok := v[key].(string); ok && note(id) {
					return true
				}
			}
			for _, key := range []string{"needs", "wait"} {
				names, _ := v[key].([]any)
				for _, n := range names {
					if note(n.(string)) {
						return true
					}
				}
			}
			return walk(v["jobs"]) || walk(v["steps"]) || walk(v["parallel"])
		}
		return false
	}
	return walk(model)
}

// dropSpare drops mistakes of reading that they have more often than we: as many as they have more. The trees of such
// files are not compared, nor the order of what remains.
func dropSpare(ours, theirs *answer, wanted func(mistake) bool) {
	spare := map[mistake]int{}
	for _, m := range theirs.Errors {
		spare[m]++
	}
	for _, m := range ours.Errors {
		spare[m]--
	}
	before := len(theirs.Errors)
	theirs.Errors = slices.DeleteFunc(theirs.Errors, func(m mistake) bool {
		drop := spare[m] > 0 && wanted(m)
		if drop {
			spare[m]--
		}
		return drop
	})
	if len(theirs.Errors) == before {
		return
	}
	ours.Tree, theirs.Tree = nil, nil
	for _, a := range []*answer{ours, theirs} {
		slices.SortFunc(a.Errors, func(a, b mistake) int {
			return cmp.Or(a.Line-b.Line, a.Column-b.Column, strings.Compare(a.message, b.message))
		})
	}
}

// dropValueAt drops the key in a place and its value from an answer's tree, and the mistakes of reading within the value.
func dropValueAt(a *answer, at Pos) {
	walkTrees(a.Tree, a.Tree, func(n, _ []any) {
		items, _ := n[3].([]any)
		for i := 0; n[2] == "mapping" && i+1 < len(items); i += 2 {
			key := items[i].([]any)
			if key[0] != float64(at.Line) || key[1] != float64(at.Column) {
				continue
			}
			inside := map[Pos]bool{}
			walkTrees(items[i+1], items[i+1], func(n, _ []any) { inside[Pos{int(n[0].(float64)), int(n[1].(float64))}] = true })
			a.Errors = slices.DeleteFunc(a.Errors, func(m mistake) bool { return inside[m.Pos] })
			n[3] = slices.Delete(items, i, i+2)
			return
		}
	})
}

// isColon reports whether there is a colon in a place of a text.
func isColon(text string, at Pos) bool {
	lines := strings.Split(text, "\n")
	if at.Line < 1 || at.Line > len(lines) {
		return false
	}
	units := utf16.Encode([]rune(lines[at.Line-1]))
	return at.Column >= 1 && at.Column <= len(units) && units[at.Column-1] == ':'
}

// followsDoubledQuote reports whether a mistake is at the beginning of a line, and the line before ends with two single
// quotes.
func followsDoubledQuote(text string, m mistake) bool {
	lines := strings.Split(text, "\n")
	return m.Column == 1 && m.Line >= 2 && m.Line <= len(lines) && strings.HasPrefix(m.message, "Implicit ") &&
		strings.HasSuffix(strings.TrimSuffix(lines[m.Line-2], "\r"), "''")
}

// isUnder reports whether a place of a tree is within the value of a key.
func isUnder(tree any, at Pos, key string) bool {
	node, ok := tree.([]any)
	if !ok {
		return false
	}
	items, ok := node[3].([]any)
	if !ok {
		return false
	}
	for i, item := range items {
		inner := item.([]any)
		if node[2] == "mapping" && i%2 == 1 && items[i-1].([]any)[3] == key {
			found := false
			walkTrees(inner, inner, func(n, _ []any) { found = found || n[0] == float64(at.Line) && n[1] == float64(at.Column) })
			if found {
				return true
			}
		}
		if isUnder(inner, at, key) {
			return true
		}
	}
	return false
}

func dropNumberTypes(model any) {
	m, ok := model.(map[string]any)
	if !ok {
		return
	}
	if m["type"] == "number" {
		delete(m, "type")
	}
	for _, v := range m {
		dropNumberTypes(v)
	}
}

func dropStepIDs(model any) {
	m, ok := model.(map[string]any)
	if !ok {
		return
	}
	steps, _ := m["steps"].([]any)
	for _, s := range steps {
		delete(s.(map[string]any), "id")
	}
}

// walkTrees calls visit for the nodes that two trees have in the same places.
func walkTrees(ours, theirs any, visit func(ours, theirs []any)) {
	a, okA := ours.([]any)
	b, okB := theirs.([]any)
	if !okA || !okB {
		return
	}
	visit(a, b)
	inA, okA := a[3].([]any)
	inB, okB := b[3].([]any)
	if !okA || !okB {
		return
	}
	for i := range min(len(inA), len(inB)) {
		walkTrees(inA[i], inB[i], visit)
	}
}

// multilineSources takes over our text of expressions in scalars that take several lines.
func multilineSources(c oracleCase, ours, theirs *answer) {
	several := map[Pos]bool{}
	lines := map[int]bool{}
	s := newScanner([]byte(c.text))
	for t := s.next(); t.kind != tokenEnd; t = s.next() {
		if t.kind == tokenScalar && t.start.line != t.end.line && strings.Contains(t.text, "${{") {
			several[t.start.pos()] = true
			for line := t.start.line; line <= t.end.line; line++ {
				lines[line+1] = true
			}
		}
	}
	found := false
	walkTrees(ours.Tree, theirs.Tree, func(ours, theirs []any) {
		if several[Pos{int(ours[0].(float64)), int(ours[1].(float64))}] && ours[2] != "sequence" && ours[2] != "mapping" && (ours[2] != theirs[2] || ours[3] != theirs[3]) {
			theirs[2], theirs[3] = ours[2], ours[3]
			found = true
		}
	})
	for _, a := range []*answer{ours, theirs} {
		a.Errors = slices.DeleteFunc(a.Errors, func(m mistake) bool {
			found = found || lines[m.Line]
			return lines[m.Line] && (strings.HasPrefix(m.message, "Unexpected value '") || m.message == sayNoExpression || expressionFault.MatchString(m.message))
		})
	}
	if found {
		// What becomes of such a scalar is as different.
		ours.Model, theirs.Model, ours.Late, theirs.Late = nil, nil, nil, nil
	}
}

// alignEmpty takes over our marks of empty values.
func alignEmpty(_ oracleCase, ours, theirs *answer) {
	moved := map[Pos]Pos{}
	walkTrees(ours.Tree, theirs.Tree, func(ours, theirs []any) {
		if ours[3] == "" && theirs[3] == "" {
			from := Pos{int(theirs[0].(float64)), int(theirs[1].(float64))}
			moved[from] = Pos{int(ours[0].(float64)), int(ours[1].(float64))}
			theirs[0], theirs[1] = ours[0], ours[1]
		}
	})
	for _, list := range [][]mistake{theirs.Errors, theirs.Late} {
		for i := range list {
			if to, ok := moved[list[i].Pos]; ok {
				list[i].Pos = to
			}
		}
	}
}

func trimConditions(model any) {
	switch m := model.(type) {
	case []any:
		for _, item := range m {
			trimConditions(item)
		}
	case map[string]any:
		for k, v := range m {
			if text, ok := v.(string); ok && k == "if" {
				if inner, ok := strings.CutPrefix(text, "success() && ("); ok {
					text = "success() && (" + strings.TrimSpace(strings.TrimSuffix(inner, ")")) + ")"
				}
				m[k] = strings.TrimSpace(text)
				continue
			}
			trimConditions(v)
		}
	}
}

// late drops mistakes of converting that only one of the two looks for: those that begin so. A star stands for any
// word.
func (a *answer) late(beginnings ...string) {
	a.Late = slices.DeleteFunc(a.Late, func(m mistake) bool {
		return slices.ContainsFunc(beginnings, func(b string) bool { return beginsWith(m.message, b) })
	})
}

func beginsWith(message, beginning string) bool {
	first, second, star := strings.Cut(beginning, "*")
	rest, ok := strings.CutPrefix(message, first)
	if !ok || !star {
		return ok
	}
	_, after, ok := strings.Cut(rest, second)
	return ok && after != rest
}

func (a *answer) reword(change func(string) string) {
	for _, list := range [][]mistake{a.Errors, a.Late} {
		for i := range list {
			list[i].message = change(list[i].message)
		}
	}
}

func dropLocations(_ oracleCase, ours, theirs *answer) {
	drop := func(m string) string {
		m, _, _ = strings.Cut(m, ". Located at position ")
		return m
	}
	ours.reword(drop)
	theirs.reword(drop)
}

func firstFaults(_ oracleCase, ours, theirs *answer) {
	for _, a := range []*answer{ours, theirs} {
		for _, list := range []*[]mistake{&a.Errors, &a.Late} {
			*list = slices.CompactFunc(*list, func(a, b mistake) bool {
				return a == b && a.message == "fault in an expression"
			})
		}
	}
}
