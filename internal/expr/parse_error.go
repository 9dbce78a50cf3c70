package expr

import "fmt"

// Error says what is wrong with an expression or a template.
type Error struct {
	// Message is the whole message in GitHub's words, with the place where GitHub names one.
	Message string
	// Offset is the byte offset of the fault in Source.
	Offset int
	// Source is the expression that the message speaks of; of a template, the one within ${{ }}.
	Source string
	// Start is the byte offset of Source in the text that was parsed: 0 unless that was a template.
	Start int
}

// Error is the message.
func (e *Error) Error() string { return e.Message }

// What may be wrong with an expression, in GitHub's words (actions/runner ParseException).
const (
	faultTooFew    = "Too few parameters supplied"
	faultTooMany   = "Too many parameters supplied"
	faultEven      = "Even number of parameters supplied, requires an odd number of parameters"
	faultEnd       = "Unexpected end of expression"
	faultSymbol    = "Unexpected symbol"
	faultFunction  = "Unrecognized function"
	faultContext   = "Unrecognized named-value"
	faultEmpty     = "An expression was expected"
	faultNotClosed = "The expression is not closed. An unescaped ${{ sequence was found, but the closing }} sequence was not found."
	faultDirective = "The directive 'insert' is not allowed in this context. Directives are not supported for expressions that are embedded within a string. Directives are only supported when the entire value is an expression."
)

var (
	faultDepth  = fmt.Sprintf("Exceeded max expression depth %d", maxDepth)
	faultLength = fmt.Sprintf("Exceeded max expression length %d", maxLength)
)

func newError(src, fault string, t token) *Error {
	return &Error{
		Message: fmt.Sprintf("%s: '%s'. Located at position %d within expression: %s", fault, t.raw, utf16Len(src[:t.at])+1, src),
		Offset:  t.at,
		Source:  src,
	}
}
