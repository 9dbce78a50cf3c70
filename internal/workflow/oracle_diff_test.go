package workflow

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const oracleCases = 20_000

// TestOracle compares this package with GitHub's own TypeScript parser over generated and spoilt files: what is taken,
// the mistakes with their words and places, the values and what they are turned into must be the same, or one of the
// known differences must say why they are not. PENSTOCK_ORACLE_SEED and PENSTOCK_ORACLE_CASES look further: of other
// seeds' files about one in 7,000, all of them spoilt beyond use, has a difference that is not explained yet.
func TestOracle(t *testing.T) {
	seed := uint64(settingOf(t, "PENSTOCK_ORACLE_SEED", 1))
	count := settingOf(t, "PENSTOCK_ORACLE_CASES", oracleCases)
	t.Logf("PENSTOCK_ORACLE_SEED=%d, %d files", seed, count)
	cases := make([]oracleCase, count)
	for i := range cases {
		cases[i] = generateCase(rand.New(rand.NewPCG(seed, uint64(i))), i)
	}
	judge(t, cases)
}

// TestOracleOnFiles does the same with the files of testdata/parse: all syntax, and every kind of mistake.
func TestOracleOnFiles(t *testing.T) {
	archives := parseArchives(t)
	var cases []oracleCase
	for _, path := range slices.Sorted(maps.Keys(archives)) {
		for _, f := range archives[path].Files {
			if extension := filepath.Ext(f.Name); extension != ".want" {
				cases = append(cases, oracleCase{action: extension == ".action", text: string(f.Data)})
			}
		}
	}
	judge(t, cases)
}

func settingOf(t *testing.T, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// generateCase makes case i: a fifth actions; of all a third right as it is, a third with wrong values, a third with
// spoilt text.
func generateCase(random *rand.Rand, i int) oracleCase {
	g := &generator{Rand: random}
	kind := i % 3
	if kind == 1 {
		g.spoil = []float64{0.004, 0.02, 0.1}[g.IntN(3)]
	}
	var c oracleCase
	var tree *part
	if c.action = i%5 == 0; c.action {
		tree = g.action()
	} else {
		tree = g.workflow()
	}
	if kind == 1 {
		g.mutate(tree)
	}
	if g.chance(0.2) {
		g.decorate(tree)
	}
	c.text = g.write(tree)
	if kind == 2 {
		c.text = g.mutateText(c.text)
	}
	return c
}

// judge asks both parsers and reports what no difference explains.
func judge(t *testing.T, cases []oracleCase) {
	t.Helper()
	answers := askOracle(t, cases)
	used := make(map[string]int, len(differences))
	taken, same, failures := 0, 0, 0
	const sampled = 300 // cases in which the use of each difference is counted, which is slow
	for i, c := range cases {
		ours, theirs := ourAnswer(c), answers[i]
		if len(ours.Errors)+len(ours.Late) == 0 {
			taken++
		}
		if compare(ours, theirs) == "" {
			same++
			continue
		}
		for _, d := range differences {
			if i >= sampled {
				d.apply(c, &ours, &theirs)
				continue
			}
			before := fmt.Sprint(ours, theirs)
			d.apply(c, &ours, &theirs)
			if fmt.Sprint(ours, theirs) != before {
				used[d.name]++
			}
		}
		if what := compare(ours, theirs); what != "" {
			if failures++; failures <= settingOf(t, "SHOW", 5) {
				t.Errorf("case %d: %s\n%s", i, what, numbered(c.text))
			}
		}
	}
	t.Logf("%d of %d files have no mistake; %d have the same answers without any difference", taken, len(cases), same)
	if failures > 5 {
		t.Errorf("and %d more", failures-5)
	}
	for _, d := range differences {
		t.Logf("%6d  %s", used[d.name], d.name)
	}
}

func numbered(text string) string {
	var b strings.Builder
	for i, line := range strings.Split(text, "\n") {
		fmt.Fprintf(&b, "%3d %q\n", i+1, line)
	}
	return b.String()
}

// compare says what is different between two answers.
func compare(ours, theirs answer) string {
	for _, list := range [][]mistake{ours.Late, theirs.Late} {
		slices.SortStableFunc(list, func(a, b mistake) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
	}
	for _, side := range []struct {
		name      string
		got, want any
	}{
		{"mistakes of reading", fmt.Sprint(ours.Errors), fmt.Sprint(theirs.Errors)},
		{"mistakes of converting", fmt.Sprint(ours.Late), fmt.Sprint(theirs.Late)},
		{"tree", ours.Tree, theirs.Tree},
		{"model", ours.Model, theirs.Model},
		{"crash", ours.Crash, theirs.Crash},
	} {
		if what := firstDifference(side.got, side.want); what != "" {
			return side.name + ": " + what
		}
	}
	return ""
}

// firstDifference finds where two JSON values part.
func firstDifference(got, want any) string {
	if reflect.DeepEqual(got, want) {
		return ""
	}
	switch g := got.(type) {
	case []any:
		w, ok := want.([]any)
		if !ok || len(g) != len(w) {
			break
		}
		for i := range g {
			if what := firstDifference(g[i], w[i]); what != "" {
				return fmt.Sprintf("[%d]%s", i, what)
			}
		}
	case map[string]any:
		w, ok := want.(map[string]any)
		if !ok || len(g) != len(w) {
			break
		}
		for _, k := range slices.Sorted(maps.Keys(g)) {
			if what := firstDifference(g[k], w[k]); what != "" {
				return fmt.Sprintf(".%s%s", k, what)
			}
		}
	}
	return fmt.Sprintf("\n got %v\nwant %v", got, want)
}
