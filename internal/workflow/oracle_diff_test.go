package workflow

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestOracleQuick(t *testing.T) {
	var cases []oracleCase
	for _, s := range strings.Split(quick, "\n=====\n") {
		cases = append(cases, oracleCase{text: s})
	}
	answers := askOracle(t, cases)
	for i, c := range cases {
		ours := ourAnswer(c)
		if d := compare(ours, answers[i]); d != "" {
			t.Errorf("%s\n--\n%s", c.text, d)
		}
	}
}

func compare(ours, theirs answer) string {
	if !reflect.DeepEqual(fmt.Sprint(ours.Errors), fmt.Sprint(theirs.Errors)) {
		return fmt.Sprintf("errors\n got %s\nwant %s", ours.Errors, theirs.Errors)
	}
	if fmt.Sprint(ours.Late) != fmt.Sprint(theirs.Late) {
		return fmt.Sprintf("late\n got %s\nwant %s", ours.Late, theirs.Late)
	}
	a, _ := json.Marshal(ours.Tree)
	b, _ := json.Marshal(theirs.Tree)
	if string(a) != string(b) {
		return fmt.Sprintf("tree\n got %s\nwant %s", a, b)
	}
	a, _ = json.Marshal(ours.Model)
	b, _ = json.Marshal(theirs.Model)
	if string(a) != string(b) {
		return fmt.Sprintf("model\n got %s\nwant %s", a, b)
	}
	return ""
}

const quick = `on: push
jobs:
  a:
    runs-on: x
    steps:
    - run: |
        a
        b
    - uses: actions/checkout@v4
      with: {a: 3.10, b: 010, c: 0o10, d: true, e: }
      env:
        A: >-
          x
          y

          z
    - id: é
      run: "a\
        b ${{ github.x }}"
    - wait-all:
  b: {runs-on: [a, b], needs: c}
  c: {needs: [a, b], uses: ./.github/workflows/x.yml}
=====
on: &a
  push: &b {branches: [main]}
  pull_request: *b
x: 1
jobs:
  j: &j
    runs-on: &r !!str 12
    name:
    steps:
    - &s
      run: x
    - *s
    - ? run
      : y
    -
      run: z
    -
  k: *j
=====
on: [push, foo]
jobs:
  j:
    runs-on: x
    if: foo()
    steps:
      - if: ${{ a }} && b
        run: x
      - {run: 'it''s', uses: b}
      - name: x
      - run: ${{ x }} ${{ y }}
=====
a: b: c
=====
a
b: c
=====
on: push
jobs: [
=====
on: "push
=====
on: push
jobs:
  a:
	runs-on: x
=====
on:
- push
-	pull_request
`
