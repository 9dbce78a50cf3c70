package workflow

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
)

func TestScheduleNext(t *testing.T) {
	const form = "2006-01-02T15:04:05Z"
	for _, row := range []struct{ cron, zone, after, want string }{
		{"*/15 * * * *", "", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"},
		{"0 0 * * *", "", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"30 5 * * 1,3", "", "2026-11-23T05:30:00Z", "2026-11-25T05:30:00Z"},
		{"0 0 29 2 *", "", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{"0 0 13 * fri", "", "2026-11-23T00:00:00Z", "2026-11-27T00:00:00Z"}, // one of the two is enough
		{"0 0 30 2 *", "", "2026-01-01T00:00:00Z", ""},
		{"0 9 * * *", "Europe/Berlin", "2026-07-01T08:00:00Z", "2026-07-02T07:00:00Z"},
		{"0 9 * * *", "Europe/Berlin", "2026-12-01T07:00:00Z", "2026-12-01T08:00:00Z"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"}, // clocks go from 2 to 3
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"}, // and from 3 to 2
		{"30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		{"30 * * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"},
	} {
		after, err := time.Parse(form, row.after)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Schedule{Cron: row.cron, Timezone: row.zone}.Next(after)
		text := got.Format(form)
		if got.IsZero() {
			text = ""
		}
		if err != nil || text != row.want {
			t.Errorf("%s %s after %s: got %s, %v; want %s", row.cron, row.zone, row.after, text, err, row.want)
		}
	}
	for _, zone := range []string{"Mars/Olympus", "Local", "../../etc/passwd"} {
		if _, err := (Schedule{Cron: "0 0 * * *", Timezone: zone}).Next(time.Now()); err == nil {
			t.Errorf("%s is a time zone", zone)
		}
	}
}

// TestScheduleNextLikeCron holds Next to another implementation, where clocks do not change. (That one takes */2 of days for
// restricted, cron itself does not.)
func TestScheduleNextLikeCron(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(choices ...string) string { return choices[random.IntN(len(choices))] }
	parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
	for range 2000 {
		line := strings.Join([]string{
			pick("*", "0", "*/7", "5,50", "10-40/15"), pick("*", "3", "*/5", "0-6", "22,23"), pick("*", "1", "31", "1,11,21", "5-9"),
			pick("*", "2", "jan-mar", "*/4", "12"), pick("*", "0", "mon-fri", "sat,sun", "1-5/2"),
		}, " ")
		if !isCron(line) {
			t.Fatalf("%s is no schedule", line)
		}
		other, err := parser.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		after := time.Unix(1_700_000_000+random.Int64N(100_000_000), 0).UTC()
		got, err := Schedule{Cron: line}.Next(after)
		if want := other.Next(after); err != nil || !got.Equal(want) {
			t.Fatalf("%s after %s: got %s, %v; want %s", line, after, got, err, want)
		}
	}
}
