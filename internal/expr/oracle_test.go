package expr

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/npmtest"
)

const (
	oracleEnvironments = 400
	oracleCases        = 100_000
)

// TestOracle compares this package with GitHub's own TypeScript evaluator over generated expressions: value, kind,
// and fault must be the same, or the table of differences must explain why they are not. PENSTOCK_ORACLE_SEED and
// PENSTOCK_ORACLE_CASES repeat or lengthen a run.
func TestOracle(t *testing.T) {
	seed := uint64(settingOf(t, "PENSTOCK_ORACLE_SEED", int(time.Now().UnixNano()%1e9)))
	count := settingOf(t, "PENSTOCK_ORACLE_CASES", oracleCases)
	t.Logf("PENSTOCK_ORACLE_SEED=%d, %d cases", seed, count)

	g := generator{Rand: rand.New(rand.NewPCG(seed, 1))}
	environments := make([]Value, oracleEnvironments)
	for i := range environments {
		g.odd = isOdd(i)
		environments[i] = g.environment()
	}
	cases := make([]oracleCase, count)
	for i := range cases {
		e := g.IntN(len(environments))
		g.env, g.odd = environments[e], isOdd(e)
		cases[i] = oracleCase{e, g.source()}
	}
	answers := askOracle(t, environments, cases)
	judge(t, environments, cases, answers)
}

// isOdd says which environments, and expressions over them, hold what evaluators are known to disagree about.
func isOdd(environment int) bool { return environment%10 == 0 }

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

type oracleCase struct {
	environment int
	source      string
}

// outcome is what an evaluator makes of an expression.
type outcome struct {
	stage   string // value, parse or eval
	text    string // the canonical value, or the message without its place
	column  int    // of a parse fault, in UTF-16 units from 1; 0 if not known
	fault   *Error // ours only
	failure error  // ours only, of the evaluation
}

func (o outcome) String() string { return fmt.Sprintf("%s %s @%d", o.stage, o.text, o.column) }

var oracleNames = Names{
	Contexts: contextNames,
	Functions: []Signature{
		{"hashFiles", 1, 255}, {"success", 0, 0}, {"failure", 0, 0}, {"always", 0, 0}, {"cancelled", 0, 0},
	},
}

func oracleEnv(environment Value) Env {
	is := func(b bool) Func { return func([]Value) (Value, error) { return Bool(b), nil } }
	env := Env{Contexts: map[string]Value{}, Functions: map[string]Func{
		"success": is(true), "failure": is(false), "always": is(true), "cancelled": is(false),
		"hashfiles": func(args []Value) (Value, error) {
			var texts []string
			for _, a := range args {
				texts = append(texts, a.Text())
			}
			return String("#" + strings.Join(texts, "|")), nil
		},
	}}
	for _, p := range environment.Pairs() {
		env.Contexts[p.Key] = p.Value
	}
	return env
}

func ourOutcome(source string, env Env) outcome {
	e, err := Parse(source, oracleNames)
	if err != nil {
		fault := err.(*Error)
		text, _, located := strings.Cut(fault.Message, ". Located at position ")
		o := outcome{stage: "parse", text: text, fault: fault}
		if located {
			o.column = utf16Len(source[:fault.Offset]) + 1
		}
		return o
	}
	v, err := e.Eval(env)
	if err != nil {
		return outcome{stage: "eval", text: err.Error(), failure: err}
	}
	return outcome{stage: "value", text: string(appendCanonical(nil, v))}
}

// appendCanonical writes a value as oracle.mjs does.
func appendCanonical(to []byte, v Value) []byte {
	text := func(s string) { to = fmt.Appendf(to, "\"%d:%s", utf16Len(s), s) }
	switch v.Kind() {
	case KindNumber:
		if v.number != v.number {
			return append(to, "#nan"...)
		}
		return fmt.Appendf(to, "#%016x", math.Float64bits(v.number))
	case KindString:
		text(v.text)
		return to
	case KindArray:
		if v.group.filtered {
			to = append(to, '*')
		}
		to = append(to, '[')
		for i, item := range v.Items() {
			if i > 0 {
				to = append(to, ',')
			}
			to = appendCanonical(to, item)
		}
		return append(to, ']')
	case KindObject:
		to = append(to, '{')
		for i, p := range v.Pairs() {
			if i > 0 {
				to = append(to, ',')
			}
			text(p.Key)
			to = appendCanonical(append(to, '='), p.Value)
		}
		return append(to, '}')
	default:
		return append(to, v.PrettyJSON()...)
	}
}

// askOracle gives the oracle's answers, from two processes.
func askOracle(t *testing.T, environments []Value, cases []oracleCase) []outcome {
	t.Helper()
	dir := npmtest.Install(t, "testdata/oracle")
	script, err := os.ReadFile("testdata/oracle/oracle.mjs")
	if err != nil {
		t.Fatal(err)
	}
	answers := make([]outcome, len(cases))
	half := len(cases) / 2
	failed := make(chan error, 2)
	for _, span := range [][2]int{{0, half}, {half, len(cases)}} {
		go func() {
			failed <- runOracle(dir, string(script), environments, cases[span[0]:span[1]], answers[span[0]:span[1]])
		}()
	}
	if err := errors.Join(<-failed, <-failed); err != nil {
		t.Fatal(err)
	}
	return answers
}

func runOracle(dir, script string, environments []Value, cases []oracleCase, answers []outcome) error {
	node := exec.Command("node", "--input-type=module", "-e", script)
	node.Dir = dir
	node.Stderr = os.Stderr
	in, err := node.StdinPipe()
	if err != nil {
		return err
	}
	out, err := node.StdoutPipe()
	if err != nil {
		return err
	}
	if err := node.Start(); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- sendCases(in, environments, cases) }()
	readErr := readAnswers(out, answers)
	if readErr != nil {
		_, _ = io.Copy(io.Discard, out) // lets node end
	}
	return errors.Join(readErr, <-sent, node.Wait())
}

func sendCases(to io.WriteCloser, environments []Value, cases []oracleCase) error {
	w := bufio.NewWriter(to)
	lines := json.NewEncoder(w)
	err := lines.Encode(environments)
	for _, c := range cases {
		err = errors.Join(err, lines.Encode([]any{c.environment, c.source}))
	}
	return errors.Join(err, w.Flush(), to.Close())
}

func readAnswers(from io.Reader, answers []outcome) error {
	lines := json.NewDecoder(from)
	for i := range answers {
		var fields []any
		if err := lines.Decode(&fields); err != nil {
			return fmt.Errorf("answer %d of the oracle: %w", i, err)
		}
		answers[i] = outcome{stage: fields[0].(string), text: fields[1].(string)}
		if len(fields) > 2 {
			answers[i].column = int(fields[2].(float64))
		}
	}
	return nil
}
