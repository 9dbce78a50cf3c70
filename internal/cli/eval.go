package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/expr"
)

// maxContextFile bounds the contexts that eval reads, bytes.
const maxContextFile = 64 << 20

func evalCommand() *cobra.Command {
	var contextFile string
	var asJSON bool
	c := &cobra.Command{
		Use:   "eval EXPR",
		Short: "Evaluate one expression of the ${{ }} language",
		Long: `Evaluate one expression of the ${{ }} language, with or without the braces.

The contexts are the members of a JSON object: any name may be used. success(), failure(), always(), cancelled() and
hashFiles() belong to a running job and are not known here.`,
		Example: `  penstock eval "contains('Hello', 'ell') && 'yes' || 'no'"
  penstock eval 'github.ref_name' --context <(echo '{"github": {"ref_name": "main"}}')
  penstock eval 'fromJSON(needs.a.outputs.list)[1]' --context contexts.json --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			env, err := readContexts(contextFile, c.InOrStdin())
			if err != nil {
				return err
			}
			value, err := evaluate(args[0], env)
			if err != nil {
				if asJSON {
					if werr := writeJSON(c.OutOrStdout(), map[string]string{"error": exprMessage(err)}); werr != nil {
						return werr
					}
					return &exitError{exitFailed, nil}
				}
				return &exitError{exitFailed, err}
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), struct {
					Kind  expr.Kind  `json:"kind"`
					Value expr.Value `json:"value"`
				}{value.Kind(), value})
			}
			text := value.Text()
			if k := value.Kind(); k == expr.KindArray || k == expr.KindObject {
				text = value.PrettyJSON()
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), text)
			return err
		},
	}
	c.Flags().StringVar(&contextFile, "context", "", "JSON `FILE` with an object of contexts; - reads standard input")
	c.Flags().BoolVar(&asJSON, "json", false, `print {"kind","value"} or {"error"}`)
	return c
}

// numbersLast puts an expression that begins as a negative number does, and is taken for a flag otherwise, behind --.
func numbersLast(args []string) []string {
	if len(args) == 0 || args[0] != "eval" {
		return args
	}
	for i, a := range args {
		if a == "--" {
			break
		}
		if len(a) > 1 && a[0] == '-' && (a[1] == '.' || a[1] >= '0' && a[1] <= '9') {
			return append(slices.Delete(slices.Clone(args), i, i+1), "--", a)
		}
	}
	return args
}

// evaluate takes an expression bare or as a scalar with ${{ }} parts.
func evaluate(text string, env expr.Env) (expr.Value, error) {
	if strings.Contains(text, "${{") {
		t, err := expr.ParseTemplate(text, expr.Names{})
		if err != nil {
			return expr.Value{}, err
		}
		return t.Eval(env)
	}
	e, err := expr.Parse(text, expr.Names{})
	if err != nil {
		return expr.Value{}, err
	}
	return e.Eval(env)
}

func exprMessage(err error) string {
	var e *expr.Error
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

func readContexts(file string, stdin io.Reader) (expr.Env, error) {
	env := expr.Env{Contexts: map[string]expr.Value{}}
	if file == "" {
		return env, nil
	}
	data, err := readFileOrStdin(file, stdin, maxContextFile)
	if err != nil {
		return env, fmt.Errorf("read contexts: %w", err)
	}
	v, err := expr.FromJSON(data)
	if err != nil {
		return env, fmt.Errorf("read contexts from %s: %w", file, err)
	}
	if v.Kind() != expr.KindObject {
		return env, withHint(fmt.Errorf("read contexts from %s: not a JSON object", file),
			`a context file looks like {"github": {"ref": "refs/heads/main"}, "env": {"CI": "true"}}`)
	}
	for _, p := range v.Pairs() {
		env.Contexts[strings.ToLower(p.Key)] = p.Value
	}
	return env, nil
}

// readFileOrStdin reads a whole file, standard input for "-", up to limit bytes.
func readFileOrStdin(file string, stdin io.Reader, limit int64) ([]byte, error) {
	r := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return data, err
}

// writeJSON writes one value and a line feed.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
