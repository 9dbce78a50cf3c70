package workflow

import (
	"errors"
	"strings"
	"sync"

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

var (
	jobConditionNames = sync.OnceValue(func() expr.Names {
		return conditionNames("github inputs vars needs", "always", "cancelled", "failure+", "success+")
	})
	stepConditionNames = sync.OnceValue(func() expr.Names {
		return conditionNames("github inputs vars needs strategy matrix steps job runner env", "always", "cancelled", "failure", "success", "hashFiles")
	})
	// plainSuccess is what decides where the file says nothing.
	plainSuccess = sync.OnceValues(func() (*expr.Expr, error) { return expr.Parse("success()", stepConditionNames()) })
)

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
	e, err := parseCondition(source, names)
	if err != nil {
		f.fail(c.Pos, faultMessage(err))
		return nil
	}
	c.Expr = e
	if n != nil && n.kind == nodeExpression && n.isMixed() {
		f.warn(n.Pos, sayAlwaysTrue)
	}
	return c
}

func parseCondition(source string, names expr.Names) (*expr.Expr, error) {
	if strings.TrimSpace(source) == "" {
		return plainSuccess()
	}
	e, err := expr.Parse(source, names)
	if err != nil || e.Calls(statusFunctions...) {
		return e, err
	}
	return expr.Parse("success() && ("+source+")", names)
}

const sayAlwaysTrue = "The text around ${{ }}, if only a line break, makes this condition a string that is never empty, so it is always true: put the whole condition inside ${{ }} or leave the braces out"

// isMixed reports whether there is text around an expression, be it only a line break.
func (n *Node) isMixed() bool {
	inner, ok := strings.CutPrefix(n.source, "${{")
	if !ok || !strings.HasSuffix(inner, "}}") {
		return true
	}
	return strings.TrimSpace(inner[:len(inner)-2]) != n.template.Expr().Source()
}

func faultMessage(err error) string {
	var fault *expr.Error
	if errors.As(err, &fault) {
		return fault.Message
	}
	return err.Error()
}
