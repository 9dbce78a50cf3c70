package workflow

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/expr"
)

const yamlTag = "tag:yaml.org,2002:"

// literal is the value of a scalar by the core schema of YAML 1.2: `on`, `yes` and `no` are words, 010 is ten, 0o10
// is eight. Its error is in GitHub's words.
func (n *yamlNode) literal() (expr.Value, error) {
	switch {
	case n.tag == yamlTag+"str", n.tag == "!":
		return expr.String(n.value), nil
	case n.tag != "":
		return n.tagged()
	case !n.plain:
		return expr.String(n.value), nil
	}
	for _, tag := range []string{"null", "bool", "int", "float"} {
		v, ok, err := resolveScalar(tag, n.value)
		if err != nil {
			return expr.String(n.value), n.invalid(tag)
		}
		if ok {
			return v, nil
		}
	}
	return expr.String(n.value), nil
}

func (n *yamlNode) tagged() (expr.Value, error) {
	asText := expr.String(n.value)
	if !n.plain {
		return asText, fmt.Errorf("The scalar style on line %d and column %d is not valid with the tag '%s'", n.Line, n.Column, n.tag)
	}
	tag, ok := strings.CutPrefix(n.tag, yamlTag)
	if !ok || tag != "null" && tag != "bool" && tag != "int" && tag != "float" {
		return asText, fmt.Errorf("Unexpected tag '%s'", n.tag)
	}
	v, ok, err := resolveScalar(tag, n.value)
	if err != nil || !ok {
		return asText, n.invalid(tag)
	}
	return v, nil
}

func (n *yamlNode) invalid(tag string) error {
	return fmt.Errorf("The value '%s' on line %d and column %d is invalid for the type '%s%s'", n.value, n.Line, n.Column, yamlTag, tag)
}

// resolveScalar reads text as one type of the core schema. It is false where the text has another form, and an
// error where the form is right but the number too large.
func resolveScalar(tag, text string) (v expr.Value, ok bool, err error) {
	switch tag {
	case "null":
		return expr.Null(), text == "" || text == "~" || text == "null" || text == "Null" || text == "NULL", nil
	case "bool":
		switch text {
		case "true", "True", "TRUE":
			return expr.Bool(true), true, nil
		case "false", "False", "FALSE":
			return expr.Bool(false), true, nil
		}
		return expr.Value{}, false, nil
	case "int":
		return resolveInteger(text)
	default:
		f, ok := resolveFloat(text)
		return expr.Number(f), ok, nil
	}
}

func resolveInteger(text string) (expr.Value, bool, error) {
	unsigned := strings.TrimLeft(text[:min(1, len(text))], "+-") + text[min(1, len(text)):]
	if unsigned != "" && onlyDigits(unsigned, "0123456789") {
		f, _ := strconv.ParseFloat(text, 64) // out of range is infinite, as GitHub reads it
		return expr.Number(f), true, nil
	}
	base, digits, charset := 0, "", ""
	if rest, ok := strings.CutPrefix(text, "0x"); ok {
		base, digits, charset = 16, rest, "0123456789abcdefABCDEF"
	} else if rest, ok := strings.CutPrefix(text, "0o"); ok {
		base, digits, charset = 8, rest, "01234567"
	}
	if digits == "" || !onlyDigits(digits, charset) {
		return expr.Value{}, false, nil
	}
	i, err := strconv.ParseUint(digits, base, 32)
	return expr.Number(float64(int32(uint32(i)))), err == nil, err
}

func onlyDigits(s, charset string) bool { return strings.Trim(s, charset) == "" }

// resolveFloat reads [-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)? and the words for infinity and NaN.
func resolveFloat(text string) (float64, bool) {
	switch text {
	case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF":
		return math.Inf(1), true
	case "-.inf", "-.Inf", "-.INF":
		return math.Inf(-1), true
	case ".nan", ".NaN", ".NAN":
		return math.NaN(), true
	}
	rest := text
	if rest != "" && (rest[0] == '+' || rest[0] == '-') {
		rest = rest[1:]
	}
	whole, rest := cutDigits(rest)
	var fraction int
	if after, ok := strings.CutPrefix(rest, "."); ok {
		fraction, rest = cutDigits(after)
	}
	if whole == 0 && fraction == 0 {
		return 0, false
	}
	if rest != "" && (rest[0] == 'e' || rest[0] == 'E') {
		rest = rest[1:]
		if rest != "" && (rest[0] == '+' || rest[0] == '-') {
			rest = rest[1:]
		}
		var exponent int
		if exponent, rest = cutDigits(rest); exponent == 0 {
			return 0, false
		}
	}
	if rest != "" {
		return 0, false
	}
	f, _ := strconv.ParseFloat(text, 64) // out of range is infinite, as GitHub reads it
	return f, true
}

// cutDigits says how many digits s begins with and what follows them.
func cutDigits(s string) (int, string) {
	rest := strings.TrimLeft(s, "0123456789")
	return len(s) - len(rest), rest
}
