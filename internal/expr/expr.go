// Package expr is the ${{ }} language of GitHub Actions: values, parser, functions and coercion.
//
// It is pure: it reads no clock, disk or network and knows no workflows. Which contexts and functions exist is
// the caller's business (Names at parse time, Env at evaluation), so that one evaluator serves workflow files,
// the scheduler, the runner and `penstock eval`.
//
// The truth is GitHub's own code: actions/runner src/Sdk/Expressions (C#), and npm @actions/expressions, which
// is the oracle of the differential test.
package expr

import (
	"slices"
	"strings"
)

// Names says which contexts and functions an expression may name. GitHub rejects others when it parses.
type Names struct {
	// Contexts are the allowed named values (github, env, ...), matched without case. Nil allows any name.
	Contexts []string
	// Functions are allowed besides the built-in ones (contains, startsWith, endsWith, format, join, toJSON,
	// fromJSON, case): hashFiles, success, failure, always, cancelled where the key allows them.
	Functions []Signature
}

// Signature is a function's name and how many arguments it takes.
type Signature struct {
	Name     string
	Min, Max int
}

// Func is the body of a function that the caller supplies.
type Func func(args []Value) (Value, error)

// Env is what an evaluation may read.
type Env struct {
	// Contexts maps a context's lower-case name to its value. A name allowed at parse time and absent here is null.
	Contexts map[string]Value
	// Functions maps the lower-case name of each function beyond the built-in ones to its body.
	Functions map[string]Func
}

// Expr is a parsed expression. It is immutable and safe for concurrent use.
type Expr struct {
	source string
	root   *node
}

// Parse reads one expression, without ${{ }}. Its error is an *Error in GitHub's words: the first fault from the
// left. A source may have 21000 UTF-16 units and 50 levels.
func Parse(src string, names Names) (*Expr, error) {
	root, err := parse(src, names)
	if err != nil {
		return nil, err
	}
	return &Expr{source: src, root: root}, nil
}

// Eval computes the expression. A context or property that is missing is null. It fails in GitHub's words where a
// function does: a bad format string, bad JSON, a predicate of case that is no boolean, more than 10 MiB held at
// once, or what a function of env gives.
func (e *Expr) Eval(env Env) (Value, error) {
	ev := evaluation{env: env, root: e.root}
	return ev.eval(e.root, 0)
}

// Source is the text that was parsed.
func (e *Expr) Source() string { return e.source }

// String is the expression in GitHub's own notation, as its debug log prints it: operators in parentheses,
// properties with a point where they can be.
func (e *Expr) String() string { return e.root.String() }

// Calls reports whether any of the functions is called anywhere in the expression, without case.
func (e *Expr) Calls(functions ...string) bool {
	found := false
	e.root.walk(func(n *node) {
		if n.op == opCall && slices.ContainsFunc(functions, func(f string) bool { return strings.EqualFold(f, n.key) }) {
			found = true
		}
	})
	return found
}

// Uses are the contexts that the expression names, in lower case, each once, in order.
func (e *Expr) Uses() []string {
	var names []string
	e.root.walk(func(n *node) {
		if n.op == opContext && !slices.Contains(names, n.key) {
			names = append(names, n.key)
		}
	})
	return names
}
