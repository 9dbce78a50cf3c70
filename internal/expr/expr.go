// Package expr is the ${{ }} language of GitHub Actions: values, parser, functions and coercion.
//
// It is pure: it reads no clock, disk or network and knows no workflows. Which contexts and functions exist is
// the caller's business (Names at parse time, Env at evaluation), so that one evaluator serves workflow files,
// the scheduler, the runner and `penstock eval`.
//
// The truth is GitHub's own code: actions/runner src/Sdk/Expressions (C#), and npm @actions/expressions, which
// is the oracle of the differential test.
package expr

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
