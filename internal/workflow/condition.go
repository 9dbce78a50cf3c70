package workflow

import (
	"errors"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
)

// statusFunctions make a condition stand for itself: without one of them, success() comes before it.
var statusFunctions = []string{"always", "cancelled", "failure", "success"}

// conditionNames is what the conditions of a place may name.
func conditionNames(contexts string, functions ...string) expr.Names {
	n := expr.Names{Contexts: strings.Fields(contexts)}
	for _, f := range functions {
		n.Functions = append(n.Functions, functionSignatures[f])
	}
	return n
}

func jobConditionNames() expr.Names {
	return conditionNames("github inputs vars needs", "always", "cancelled", "failure+", "success+")
}

func stepConditionNames() expr.Names {
	return conditionNames("github inputs vars needs strategy matrix steps job runner env", "always", "cancelled", "failure", "success", "hashFiles")
}

// condition reads an `if:`; a nil node is one that the file does not give. ${{ }} round the whole changes nothing.
// Without a status function, success() && (...) is put round it. It is nil after a mistake.
func (f *findings) condition(n *Node, at Pos, names expr.Names) *Condition {
	c := &Condition{Pos: at}
	source := ""
	if n != nil {
		c.Pos, c.Source = n.Pos, n.source
		source = n.value.Text()
		if n.kind == nodeExpression {
			source = n.template.Expr().Source()
		}
	}
	if strings.TrimSpace(source) == "" {
		source = "success()"
	}
	e, err := expr.Parse(source, names)
	if err == nil && !e.Calls(statusFunctions...) {
		e, err = expr.Parse("success() && ("+source+")", names)
	}
	if err != nil {
		f.fail(c.Pos, faultMessage(err))
		return nil
	}
	c.Expr = e
	if n != nil && n.kind == nodeExpression && isMixed(n.source) {
		f.warn(n.Pos, "The text around ${{ }} makes this condition a string that is never empty, so it is always true: put the whole condition inside ${{ }} or leave the braces out")
	}
	return c
}

// isMixed reports whether there is text around an expression.
func isMixed(source string) bool {
	trimmed := strings.TrimSpace(source)
	return !strings.HasPrefix(trimmed, "${{") || !strings.HasSuffix(trimmed, "}}") || strings.Count(trimmed, "${{") > 1
}

func faultMessage(err error) string {
	var fault *expr.Error
	if errors.As(err, &fault) {
		return fault.Message
	}
	return err.Error()
}
