package expr

import (
	"math"
	"strconv"
	"strings"
	"unicode"
)

var nan = math.NaN()

// parseNumber reads a string as GitHub coerces it: blanks around are ignored, nothing is 0, and besides decimals
// there are 0x and 0o of at most 32 bits (which wrap to negative) and the words Infinity and NaN in any case with
// or without a sign. What is no number is NaN.
func parseNumber(s string) float64 {
	s = strings.TrimFunc(s, unicode.IsSpace)
	if s == "" {
		return 0
	}
	if f, ok := parseDecimal(s); ok {
		return f
	}
	if len(s) > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'o') {
		return parseRadix(s)
	}
	return nan
}

func parseRadix(s string) float64 {
	base := 16
	if s[1] == 'o' {
		base = 8
	}
	for i := 2; i < len(s); i++ {
		if c := s[i]; c == '_' || c == '+' || c == '-' {
			return nan
		}
	}
	bits, err := strconv.ParseUint(s[2:], base, 32)
	if err != nil {
		return nan
	}
	return float64(int32(uint32(bits)))
}

// parseDecimal is .NET's Double.TryParse with a leading sign, a point and an exponent allowed and nothing else.
func parseDecimal(s string) (float64, bool) {
	end := scanDecimal(s)
	if end == 0 || strings.TrimRight(s[end:], "\x00") != "" {
		return parseWord(s)
	}
	f, _ := strconv.ParseFloat(s[:end], 64) // beyond the range it is an infinity, as in .NET
	return f, true
}

// scanDecimal is the length of the decimal number that s begins with, 0 if it does not.
func scanDecimal(s string) int {
	i := 0
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		i++
	}
	start := i
	i = skipDigits(s, i)
	digits := i - start
	if i < len(s) && s[i] == '.' {
		point := i + 1
		i = skipDigits(s, point)
		digits += i - point
	}
	if digits == 0 {
		return 0
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		j := i + 1
		if j < len(s) && (s[j] == '+' || s[j] == '-') {
			j++
		}
		if k := skipDigits(s, j); k > j {
			i = k
		}
	}
	return i
}

func skipDigits(s string, i int) int {
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return i
}

// parseWord reads Infinity and NaN, which .NET takes in any case and with a sign.
func parseWord(s string) (float64, bool) {
	sign := 1
	switch s[0] {
	case '-':
		sign, s = -1, s[1:]
	case '+':
		s = s[1:]
	}
	switch {
	case strings.EqualFold(s, "Infinity"):
		return math.Inf(sign), true
	case strings.EqualFold(s, "NaN"):
		return nan, true
	default:
		return 0, false
	}
}

// formatNumber is .NET's G15: up to 15 significant digits, an exponent of at least two digits from 1E+15 up and
// below 0.0001. Minus zero is 0.
func formatNumber(f float64) string {
	switch {
	case f != f:
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	if n := int64(f); float64(n) == f && n > -1e15 && n < 1e15 {
		return strconv.FormatInt(n, 10)
	}
	return strconv.FormatFloat(f, 'G', 15, 64)
}
