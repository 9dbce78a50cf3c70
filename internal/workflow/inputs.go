package workflow

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
)

// DispatchInputs makes the inputs of a workflow_dispatch of what a person gave: typed is the `inputs` context, with
// booleans and numbers; asStrings is `github.event.inputs`. Names ignore case. The error lists everything that is
// wrong: inputs that are required, unknown, or not of their type or options.
func (w *Workflow) DispatchInputs(given map[string]string) (typed, asStrings expr.Value, err error) {
	t := w.On.Find("workflow_dispatch")
	if t == nil {
		return expr.Value{}, expr.Value{}, errors.New("Workflow does not have 'workflow_dispatch' trigger")
	}
	values := make(map[string]string, len(given))
	for _, name := range slices.Sorted(maps.Keys(given)) {
		values[strings.ToUpper(name)] = given[name]
	}
	var typedPairs, stringPairs []expr.Pair
	var mistakes []error
	for _, in := range t.Inputs {
		folded := strings.ToUpper(in.Name)
		text, ok := values[folded]
		delete(values, folded)
		if !ok {
			text = in.Default.text()
		}
		if in.Required && text == "" && in.Type != "boolean" {
			mistakes = append(mistakes, fmt.Errorf("Required input '%s' not provided", in.Name))
			continue
		}
		v, mistake := in.parse(text)
		if mistake != nil {
			mistakes = append(mistakes, mistake)
			continue
		}
		if in.Type == "boolean" {
			text = v.Text()
		}
		typedPairs = append(typedPairs, expr.Pair{Key: in.Name, Value: v})
		stringPairs = append(stringPairs, expr.Pair{Key: in.Name, Value: expr.String(text)})
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, left := values[strings.ToUpper(name)]; left {
			mistakes = append(mistakes, fmt.Errorf("Unexpected inputs provided: [%q]", name))
		}
	}
	if len(mistakes) > 0 {
		return expr.Value{}, expr.Value{}, errors.Join(mistakes...)
	}
	return expr.Object(typedPairs...), expr.Object(stringPairs...), nil
}

// parse makes a typed value of text; none at all is the type's zero value.
func (in *Input) parse(text string) (expr.Value, error) {
	switch in.Type {
	case "boolean":
		switch strings.ToLower(text) {
		case "true":
			return expr.Bool(true), nil
		case "false", "":
			return expr.Bool(false), nil
		}
		return expr.Value{}, fmt.Errorf("Provided value '%s' for input '%s' is not a boolean: it must be true or false", text, in.Name)
	case "number":
		n := expr.String(text).Number()
		if n != n {
			return expr.Value{}, fmt.Errorf("Provided value '%s' for input '%s' is not a number", text, in.Name)
		}
		return expr.Number(n), nil
	case "choice":
		if text != "" && !slices.Contains(in.Options, text) {
			return expr.Value{}, fmt.Errorf("Provided value '%s' for input '%s' not in the list of allowed values: %s", text, in.Name, strings.Join(in.Options, ", "))
		}
	}
	return expr.String(text), nil
}

// CallInputs makes the `inputs` context of a called workflow: what the caller gave, the defaults and the types that
// trigger, a workflow_call, declares. Default values may not use contexts here: CallInputsIn has them.
func CallInputs(trigger *Trigger, given expr.Value) (expr.Value, error) {
	return CallInputsIn(trigger, given, expr.Env{})
}

// CallInputsIn is CallInputs with the contexts for default values: github, inputs (the caller's) and vars. Its error
// lists everything that is wrong, in GitHub's words.
func CallInputsIn(trigger *Trigger, given expr.Value, env expr.Env) (expr.Value, error) {
	var pairs []expr.Pair
	var mistakes []error
	for _, in := range trigger.Inputs {
		v, err := in.called(given, env)
		if err != nil {
			mistakes = append(mistakes, err)
		}
		pairs = append(pairs, expr.Pair{Key: in.Name, Value: v})
	}
	declared := expr.Object(pairs...)
	for _, p := range given.Pairs() {
		if _, ok := declared.Lookup(p.Key); !ok {
			mistakes = append(mistakes, fmt.Errorf("Invalid input, %s is not defined in the referenced workflow.", p.Key))
		}
	}
	return declared, errors.Join(mistakes...)
}

func (in *Input) called(given expr.Value, env expr.Env) (expr.Value, error) {
	v, ok := given.Lookup(in.Name)
	switch {
	case ok:
	case in.Default != nil:
		var err error
		if v, err = in.Default.Eval(env); err != nil {
			return expr.Null(), fmt.Errorf("Input %s: %w", in.Name, err)
		}
	case in.Required:
		return expr.Null(), fmt.Errorf("Input %s is required, but not provided while calling.", in.Name)
	default:
		return in.parse("")
	}
	typed, ok := callTypes()[in.Type].accept(v)
	if !ok {
		return expr.Null(), fmt.Errorf("Input %s: Unexpected value '%s'", in.Name, v.Text())
	}
	return typed, nil
}
