package native

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// momentToken cuts a format as Moment.js does (its formattingTokens), the tokens without their locale's own forms.
var momentToken = regexp.MustCompile(`\[[^\[]*\]|\\.|Mo|MM?M?M?|Do|DDDo|DD?D?D?|ddd?d?|do?|Qo?|YYYYYY|YYYYY|YYYY|YY|Y|GGGG|GG|WW?|E|A|a|HH?|hh?|kk?|mm?|ss?|S{1,9}|X|x|ZZ?|zz?|.`)

// moment writes a time by a format of Moment.js.
func moment(t time.Time, format string) string {
	return momentToken.ReplaceAllStringFunc(format, func(token string) string {
		if strings.HasPrefix(token, "[") && strings.HasSuffix(token, "]") && len(token) > 1 {
			return token[1 : len(token)-1]
		}
		if strings.HasPrefix(token, `\`) {
			return token[1:]
		}
		if strings.HasPrefix(token, "S") {
			return fmt.Sprintf("%09d", t.Nanosecond())[:len(token)]
		}
		if write, ok := momentTokens[token]; ok {
			return write(t)
		}
		return token
	})
}

func layout(l string) func(time.Time) string { return func(t time.Time) string { return t.Format(l) } }

func counted(n func(time.Time) int) func(time.Time) string {
	return func(t time.Time) string { return strconv.Itoa(n(t)) }
}

func padded(width int, n func(time.Time) int) func(time.Time) string {
	return func(t time.Time) string { return fmt.Sprintf("%0*d", width, n(t)) }
}

func ordinal(n func(time.Time) int) func(time.Time) string {
	return func(t time.Time) string {
		v, suffix := n(t), "th"
		if v/10%10 != 1 {
			switch v % 10 {
			case 1:
				suffix = "st"
			case 2:
				suffix = "nd"
			case 3:
				suffix = "rd"
			}
		}
		return strconv.Itoa(v) + suffix
	}
}

var (
	month   = func(t time.Time) int { return int(t.Month()) }
	quarter = func(t time.Time) int { return (int(t.Month()) + 2) / 3 }
	weekday = func(t time.Time) int { return int(t.Weekday()) }
	isoYear = func(t time.Time) int { y, _ := t.ISOWeek(); return y }
	isoWeek = func(t time.Time) int { _, w := t.ISOWeek(); return w }
	hour12  = func(t time.Time) int { return (t.Hour()+11)%12 + 1 }
	hour24  = func(t time.Time) int { return (t.Hour()+23)%24 + 1 }
)

var momentTokens = map[string]func(time.Time) string{
	"M": counted(month), "Mo": ordinal(month), "MM": padded(2, month), "MMM": layout("Jan"), "MMMM": layout("January"),
	"D": counted(time.Time.Day), "Do": ordinal(time.Time.Day), "DD": padded(2, time.Time.Day),
	"DDD": counted(time.Time.YearDay), "DDDo": ordinal(time.Time.YearDay), "DDDD": padded(3, time.Time.YearDay),
	"d": counted(weekday), "do": ordinal(weekday), "ddd": layout("Mon"), "dddd": layout("Monday"),
	"E": counted(func(t time.Time) int { return (weekday(t)+6)%7 + 1 }), "Q": counted(quarter), "Qo": ordinal(quarter),
	"Y": counted(time.Time.Year), "YY": layout("06"), "YYYY": padded(4, time.Time.Year), "YYYYY": padded(5, time.Time.Year),
	"YYYYYY": func(t time.Time) string { return fmt.Sprintf("+%06d", t.Year()) },
	"GG":     func(t time.Time) string { return fmt.Sprintf("%02d", isoYear(t)%100) }, "GGGG": padded(4, isoYear), "W": counted(isoWeek), "WW": padded(2, isoWeek),
	"A": layout("PM"), "a": layout("pm"), "H": counted(time.Time.Hour), "HH": padded(2, time.Time.Hour), "h": counted(hour12), "hh": padded(2, hour12),
	"k": counted(hour24), "kk": padded(2, hour24), "m": counted(time.Time.Minute), "mm": padded(2, time.Time.Minute),
	"s": counted(time.Time.Second), "ss": padded(2, time.Time.Second),
	"X": func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }, "x": func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) },
	"Z": layout("-07:00"), "ZZ": layout("-0700"), "z": layout("MST"), "zz": layout("MST"),
}
