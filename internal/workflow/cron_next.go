package workflow

import (
	"strconv"
	"strings"
	"time"
)

// maxCronYears bounds the search for a schedule's next time: 29 February on a given weekday comes at least so often.
const maxCronYears = 41

// Next gives the first time after another at which a schedule fires, in UTC; the zero time if it never does (30 February).
// As with cron, of day and weekday one is enough if both are restricted. Where clocks are put forward over it, it fires when
// they have been; where they are put back over it, it fires once, but a schedule of every hour in every one. A time zone that
// is not known is an error.
func (s Schedule) Next(after time.Time) (time.Time, error) {
	zone, err := time.LoadLocation(s.Timezone)
	if err != nil || strings.EqualFold(s.Timezone, "local") {
		return time.Time{}, &cronError{s.Timezone}
	}
	t := newCronTable(s.Cron)
	after = after.In(zone)
	if t.everyHour {
		return t.nextHourly(after), nil
	}
	return t.nextDaily(after), nil
}

type cronError struct{ zone string }

func (e *cronError) Error() string {
	return "there is no time zone " + strconv.Quote(e.zone) + ": it must have an IANA name such as Europe/Berlin"
}

// cronTable is which minutes, hours, ... a schedule names.
type cronTable struct {
	minutes, hours, days, months, weekdays uint64
	everyHour                              bool
	anyDay, anyWeekday                     bool
}

func newCronTable(cron string) cronTable {
	fields := cronSplit(cron)
	return cronTable{
		minutes: cronFields[0].bits(fields[0]), hours: cronFields[1].bits(fields[1]), days: cronFields[2].bits(fields[2]),
		months: cronFields[3].bits(fields[3]), weekdays: cronFields[4].bits(fields[4]),
		everyHour: fields[1] == "*", anyDay: strings.HasPrefix(fields[2], "*"), anyWeekday: strings.HasPrefix(fields[4], "*"),
	}
}

// bits are the values of a valid field.
func (f cronField) bits(s string) (set uint64) {
	for part := range strings.SplitSeq(s, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			step, _ = f.number(stepText)
		}
		first, lastText, ranged := strings.Cut(span, "-")
		from, last := f.min, f.max
		if span != "*" {
			from, _ = f.number(first)
			if last = from; ranged {
				last, _ = f.number(lastText)
			} else if stepped {
				last = f.max
			}
		}
		for n := from; n <= last; n += max(step, 1) {
			set |= 1 << n
		}
	}
	return set
}

func has(set uint64, n int) bool { return set&(1<<n) != 0 }

func (t *cronTable) hasDay(y int, m time.Month, d int) bool {
	if !has(t.months, int(m)) {
		return false
	}
	day, weekday := has(t.days, d), has(t.weekdays, int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Weekday()))
	if t.anyDay || t.anyWeekday {
		return day && weekday
	}
	return day || weekday
}

// nextHourly goes through hours as they pass, whatever clocks show.
func (t *cronTable) nextHourly(after time.Time) time.Time {
	at := after.Truncate(time.Minute).Add(time.Minute)
	for end := after.AddDate(maxCronYears, 0, 0); at.Before(end); {
		switch y, m, d := at.Date(); {
		case !t.hasDay(y, m, d):
			at = time.Date(y, m, d+1, 0, 0, 0, 0, at.Location())
		case !has(t.minutes, at.Minute()):
			at = at.Add(time.Minute)
		default:
			return at.UTC()
		}
	}
	return time.Time{}
}

// nextDaily goes through the days of a calendar and the times of each.
func (t *cronTable) nextDaily(after time.Time) time.Time {
	y, m, d := after.Date()
	for day := range maxCronYears * 366 {
		y, m, d := time.Date(y, m, d+day, 0, 0, 0, 0, time.UTC).Date()
		if !t.hasDay(y, m, d) {
			continue
		}
		for h := range 24 {
			for minute := range 60 {
				if !has(t.hours, h) || !has(t.minutes, minute) {
					continue
				}
				if at := onClock(y, m, d, h, minute, after.Location()); at.After(after) {
					return at.UTC()
				}
			}
		}
	}
	return time.Time{}
}

// onClock is when clocks show a time first, or have been put forward over it.
func onClock(y int, m time.Month, d, h, minute int, zone *time.Location) time.Time {
	at := time.Date(y, m, d, h, minute, 0, 0, zone)
	if at.Hour() == h && at.Minute() == minute {
		if earlier := at.Add(-time.Hour); earlier.Hour() == h && earlier.Minute() == minute {
			return earlier
		}
		return at
	}
	// It is one of the two times that are as far from the change as the clocks were put forward: take the change itself.
	before, after := at.Add(-3*time.Hour), at.Add(3*time.Hour)
	_, offset := before.Zone()
	for after.Sub(before) > time.Second {
		middle := before.Add(after.Sub(before) / 2)
		if _, o := middle.Zone(); o == offset {
			before = middle
		} else {
			after = middle
		}
	}
	return after.Truncate(time.Second)
}
