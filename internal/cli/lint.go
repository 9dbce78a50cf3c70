package cli

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
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
		Short: "Check workflow and action files, penstock.yaml and Flagger's manifests",
		Long: `Check workflow files, action.yml files, penstock.yaml and Flagger's manifests, all of the repository's workflows and its
penstock.yaml if none is named: first with the parser that reads them for a run or a release, whose errors are GitHub's, then
workflows with actionlint, which knows much more about good style. With penstock.yaml go the manifests that it names.

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

// lintFile is a file and the directory that it lies in.
type lintFile struct {
	forge.File
	dir string
}

func lintFiles(c *cobra.Command, dir string, args []string) ([]lintFile, error) {
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
		if data != nil && errors.Is(err, errNoWorkflows) { // it may be built elsewhere, and only released here
			err = nil
		}
		var all []lintFile
		for _, f := range files {
			all = append(all, lintFile{File: f})
		}
		if data != nil && err == nil {
			all = append(all, lintFile{forge.File{Path: config.Name, Data: data}, tree.Root})
		}
		return all, err
	}
	var files []lintFile
	for _, name := range args {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		data, err := readFileOrStdin(path, nil, maxEventFile)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, errors.Unwrap(err))
		}
		files = append(files, lintFile{forge.File{Path: name, Data: data}, filepath.Dir(path)})
	}
	return files, nil
}

// lint is what both the parser and actionlint say of a file, in order of place.
func lint(f lintFile) ([]lintFinding, error) {
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
	if flaggerObject.Match(f.Data) {
		m, err := config.ParseManifest(config.File{Path: f.Path, Data: f.Data})
		if err != nil {
			return ofConfig("error", err), nil
		}
		return ofConfig("warning", config.Errors(m.Notes)), nil
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
		more, err := actionlintFindings(f.File)
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

// flaggerObject is how one of Flagger's objects is told from a workflow, where such a line is part of a step.
var flaggerObject = regexp.MustCompile(`(?m)^apiVersion:\s*["']?flagger\.app/`)

// lintConfig is what is said of a penstock.yaml and of the manifests that it names.
func lintConfig(f lintFile) []lintFinding {
	c, err := config.Parse(f.Path, f.Data)
	if err != nil {
		return ofConfig("error", err)
	}
	out := ofConfig("warning", config.Errors(c.Notes))
	read := func(name string) ([]byte, error) {
		root, err := os.OpenRoot(f.dir) // what lies outside is not the repository's
		if err != nil {
			return nil, err
		}
		defer root.Close()
		file, err := root.Open(filepath.FromSlash(name))
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return io.ReadAll(io.LimitReader(file, maxEventFile))
	}
	for _, e := range c.Environments {
		_, notes, err := e.Strategy(read)
		for _, m := range slices.Concat(ofConfig("error", err), ofConfig("warning", config.Errors(notes))) {
			if m.Path != f.Path {
				m.Path = filepath.Join(filepath.Dir(f.Path), m.Path)
			}
			if !slices.Contains(out, m) {
				out = append(out, m)
			}
		}
	}
	return out
}

func ofConfig(severity string, err error) []lintFinding {
	var list config.Errors
	errors.As(err, &list)
	var out []lintFinding
	for _, m := range list {
		out = append(out, lintFinding{m.Path, m.Line, m.Column, severity, m.Message, "parser"})
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
