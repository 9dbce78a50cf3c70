package cli

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/rhysd/actionlint"
	"github.com/spf13/cobra"

	"github.com/penstock-ci/penstock/internal/config"
	"github.com/penstock-ci/penstock/internal/forge"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// lintFinding is one finding of `penstock lint --json`.
type lintFinding struct {
	Path     string `json:"path"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Severity string `json:"severity"` // error or warning
	Message  string `json:"message"`
	Source   string `json:"source"` // parser or actionlint
}

func lintCommand() *cobra.Command {
	var dir string
	var asJSON bool
	c := &cobra.Command{
		Use:   "lint [FILE...]",
		Short: "Check workflow and action files and penstock.yaml",
		Long: `Check workflow files, action.yml files and penstock.yaml, all of the repository's workflows and its penstock.yaml if
none is named: first with the parser that reads them for a run, whose errors are GitHub's, then workflows with actionlint,
which knows much more about good style.

The exit code is 1 if there is an error.`,
		Example: "  penstock lint\n  penstock lint .github/workflows/ci.yml --json",
		RunE: func(c *cobra.Command, args []string) error {
			files, err := lintFiles(c, dir, args)
			if err != nil {
				return err
			}
			findings := []lintFinding{}
			for _, f := range files {
				more, err := lint(f)
				if err != nil {
					return err
				}
				findings = append(findings, more...)
			}
			return writeFindings(c.OutOrStdout(), c.ErrOrStderr(), len(files), findings, asJSON)
		},
	}
	c.Flags().StringVarP(&dir, "directory", "C", ".", "work in `DIR`")
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON list of {path,line,column,severity,message,source}")
	return c
}

func lintFiles(c *cobra.Command, dir string, args []string) ([]forge.File, error) {
	if len(args) == 0 {
		tree, err := forge.OpenWorkTree(c.Context(), dir)
		if err != nil {
			return nil, err
		}
		data, err := config.ReadFile(tree.Root)
		if err != nil {
			return nil, err
		}
		files, err := (&triggerFlags{dir: dir}).read(tree)
		if data != nil && err == nil {
			files = append(files, forge.File{Path: config.Name, Data: data})
		}
		return files, err
	}
	var files []forge.File
	for _, name := range args {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		data, err := readFileOrStdin(path, nil, maxEventFile)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, errors.Unwrap(err))
		}
		files = append(files, forge.File{Path: name, Data: data})
	}
	return files, nil
}

// lint is what both the parser and actionlint say of a file, in order of place.
func lint(f forge.File) ([]lintFinding, error) {
	var out []lintFinding
	add := func(list []workflow.Finding) {
		for _, m := range list {
			out = append(out, lintFinding{f.Path, m.Line, m.Column, m.Severity, m.Message, "parser"})
		}
	}
	base := filepath.Base(f.Path)
	if base == config.Name {
		return lintConfig(f), nil
	}
	isAction := base == "action.yml" || base == "action.yaml"
	var mistakes workflow.Errors
	if isAction {
		a, err := workflow.ParseAction(f.Path, f.Data)
		if err != nil && !errors.As(err, &mistakes) {
			return nil, err
		}
		if err == nil {
			add(a.Warnings)
		}
	} else {
		w, err := workflow.ParseWorkflow(f.Path, f.Data)
		if err != nil && !errors.As(err, &mistakes) {
			return nil, err
		}
		if err == nil {
			add(w.Warnings)
		}
	}
	add(mistakes)
	if !isAction {
		more, err := actionlintFindings(f)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	slices.SortStableFunc(out, func(a, b lintFinding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return out, nil
}

func lintConfig(f forge.File) []lintFinding {
	_, err := config.Parse(f.Path, f.Data)
	var mistakes config.Errors
	errors.As(err, &mistakes)
	var out []lintFinding
	for _, m := range mistakes {
		out = append(out, lintFinding{f.Path, m.Line, m.Column, "error", m.Message, "parser"})
	}
	return out
}

func actionlintFindings(f forge.File) ([]lintFinding, error) {
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{})
	if err != nil {
		return nil, fmt.Errorf("actionlint: %w", err)
	}
	found, err := linter.Lint(f.Path, f.Data, nil)
	if err != nil {
		return nil, fmt.Errorf("actionlint: %w", err)
	}
	var out []lintFinding
	for _, e := range found {
		out = append(out, lintFinding{f.Path, e.Line, e.Column, "warning", fmt.Sprintf("%s [%s]", e.Message, e.Kind), "actionlint"})
	}
	return out, nil
}

func writeFindings(stdout, stderr io.Writer, files int, findings []lintFinding, asJSON bool) error {
	mistakes := 0
	var text bytes.Buffer
	for _, f := range findings {
		if f.Severity == "error" {
			mistakes++
		}
		fmt.Fprintf(&text, "%s:%d:%d: %s: %s\n", f.Path, f.Line, f.Column, f.Severity, safe(f.Message))
	}
	if asJSON {
		if err := writeJSON(stdout, findings); err != nil {
			return err
		}
	} else {
		if _, err := stdout.Write(text.Bytes()); err != nil {
			return err
		}
		fmt.Fprintf(stderr, "%d files: %d errors, %d warnings\n", files, mistakes, len(findings)-mistakes)
	}
	if mistakes > 0 {
		return &exitError{exitFailed, nil}
	}
	return nil
}

// dataDir is where everything that penstock keeps for this user lies.
func dataDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", withHint(fmt.Errorf("find the cache directory: %w", err), "set HOME or XDG_CACHE_HOME")
	}
	return filepath.Join(cache, "penstock"), nil
}
