package native

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/penstock-ci/penstock/internal/build"
	"github.com/penstock-ci/penstock/internal/osv"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// trivy is aquasecurity/trivy-action. It runs trivy if the machine has it; else it looks by itself for vulnerabilities of
// what lock files pin (in a database of OSV's, where there is one), for secrets (by gitleaks' rules) and for mistakes in
// Dockerfiles (by BuildKit's checks), and says what it did not look at.
type trivy struct{}

// problem is one finding of a scan.
type problem struct {
	Kind     string // vulnerability, secret, misconfig
	Rule     string
	Severity string // CRITICAL, HIGH, MEDIUM, LOW, UNKNOWN
	Title    string
	File     string // relative to what was scanned
	Line     int
	URL      string
	osv      osv.Finding // of a vulnerability
}

// Limits of a scan.
const (
	maxScanned  = 8 << 20 // bytes of one file
	maxScanning = 200_000 // files
	maxProblems = 10_000
)

func (trivy) Main(ctx context.Context, s *Step) error {
	if _, err := s.answer(ctx, s.workspace(), "trivy", "--version"); err == nil {
		return s.runTrivy(ctx)
	}
	kind := or(s.input("scan-type"), "image")
	if !slices.Contains([]string{"fs", "filesystem", "repo", "repository", "rootfs", "config"}, kind) {
		s.warning("Trivy is not installed on this machine, and a scan of type %q needs it: NOTHING WAS SCANNED. Install it in a step before this one", kind)
		return nil
	}
	found, err := s.scan(ctx, kind)
	if err != nil {
		return err
	}
	text, err := s.report(found)
	if err != nil {
		return err
	}
	if name := s.input("output"); name != "" {
		if err := sandbox.WriteFile(ctx, s.Sandbox, s.abs(name), text, 0o644); err != nil {
			return err
		}
	} else if _, err := s.Log.Write(text); err != nil {
		return err
	}
	if code, ok, err := s.number("exit-code"); err == nil && ok && code != 0 && len(found) > 0 {
		return &sandbox.ExitError{Code: code}
	}
	return nil
}

// runTrivy runs the machine's own with the action's inputs as the original's entrypoint.sh gives them: as environment.
func (s *Step) runTrivy(ctx context.Context) error {
	var env []string
	for _, name := range []string{"severity", "format", "output", "exit-code", "ignore-unfixed", "scanners", "timeout", "skip-dirs", "skip-files", "template", "list-all-pkgs", "cache-dir", "input", "quiet"} {
		if v := s.input(name); v != "" {
			env = append(env, "TRIVY_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+v)
		}
	}
	if v := or(s.input("vuln-type"), s.input("pkg-types")); v != "" {
		env = append(env, "TRIVY_PKG_TYPES="+v)
	}
	target := or(s.input("scan-ref"), ".")
	kind := or(s.input("scan-type"), "image")
	if kind == "image" {
		target = s.input("image-ref")
	}
	return s.runEnv(ctx, s.workspace(), env, "trivy", kind, target)
}

// scan looks through the files.
func (s *Step) scan(ctx context.Context, kind string) ([]problem, error) {
	scanners := s.commaList("scanners")
	if len(scanners) == 0 {
		scanners = []string{"vuln", "secret"}
		if kind == "config" {
			scanners = nil
		}
	}
	secrets, misconfig := slices.Contains(scanners, "secret"), slices.Contains(scanners, "misconfig") || slices.Contains(scanners, "config") || kind == "config"
	var database *osv.Database
	if slices.Contains(scanners, "vuln") {
		database = s.vulnerabilities()
	}
	readable, ok := s.Sandbox.(sandbox.Readable)
	if !ok {
		return nil, errors.New("trivy is not installed, and this machine's files can not be searched without it")
	}
	root, err := readable.Open(s.abs(or(s.input("scan-ref"), ".")))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	skip := slices.Concat(s.commaList("skip-dirs"), s.commaList("skip-files"))
	ignored := s.ignoredRules(ctx)
	var found []problem
	var packages []osv.Package
	files := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || context.Cause(ctx) != nil:
			return context.Cause(ctx) // what can not be read is not ours
		case e.IsDir() && (slices.Contains(skipped, e.Name()) || matchesAny(skip, name)):
			return fs.SkipDir
		case !e.Type().IsRegular() || matchesAny(skip, name):
			return nil
		}
		if files++; files > maxScanning || len(found) > maxProblems {
			return fs.SkipAll
		}
		f, err := root.Open(name)
		if err != nil {
			return nil
		}
		text, err := io.ReadAll(io.LimitReader(f, maxScanned+1))
		f.Close()
		if err != nil || len(text) > maxScanned || bytes.IndexByte(text[:min(len(text), 8000)], 0) >= 0 {
			return nil
		}
		if database != nil && osv.IsLockFile(name) {
			more, err := osv.Read(name, text)
			if err != nil {
				s.warning("%s", err)
			}
			packages = append(packages, more...)
		}
		if secrets {
			found = append(found, scanSecrets(name, text)...)
		}
		if misconfig && isDockerfile(name) {
			found = append(found, scanDockerfile(ctx, name, text)...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if database != nil {
		vulnerable, err := s.findVulnerable(ctx, database, packages)
		if err != nil {
			return nil, err
		}
		found = append(vulnerable, found...)
	}
	s.info("Scanned %d files of %s for %s", files, or(s.input("scan-ref"), "."), strings.Join(lookedFor(database != nil, secrets, misconfig), " and "))
	return s.severe(found, ignored), nil
}

func lookedFor(vulnerabilities, secrets, misconfig bool) (what []string) {
	if vulnerabilities {
		what = append(what, "vulnerabilities")
	}
	if secrets {
		what = append(what, "secrets")
	}
	if misconfig {
		what = append(what, "mistakes in Dockerfiles")
	}
	if len(what) == 0 {
		what = []string{"nothing"}
	}
	return what
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		p = strings.TrimPrefix(strings.Trim(p, "/"), "./")
		ok, err := path.Match(p, name)
		return ok && err == nil || p == name
	})
}

// ignoredRules are the rules that .trivyignore and the trivyignores input name.
func (s *Step) ignoredRules(ctx context.Context) []string {
	var rules []string
	for _, name := range append(s.commaList("trivyignores"), ".trivyignore") {
		text, err := sandbox.ReadFile(ctx, s.Sandbox, s.abs(name), maxAnswer)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if line, _, _ = strings.Cut(strings.TrimSpace(line), "#"); line != "" {
				rules = append(rules, strings.Fields(line)[0])
			}
		}
	}
	return rules
}

// severe keeps what is of the severities that were asked for.
func (s *Step) severe(found []problem, ignored []string) []problem {
	want := s.commaList("severity")
	return slices.DeleteFunc(found, func(p problem) bool {
		return slices.Contains(ignored, p.Rule) || len(want) > 0 && !slices.Contains(want, p.Severity)
	})
}

func isDockerfile(name string) bool {
	base := strings.ToLower(path.Base(name))
	return base == "dockerfile" || strings.HasPrefix(base, "dockerfile.") || strings.HasSuffix(base, ".dockerfile")
}

// scanDockerfile has BuildKit's checks look at a Dockerfile, and looks for a user who is not root.
func scanDockerfile(ctx context.Context, name string, text []byte) (found []problem) {
	findings, err := build.Lint(ctx, name, text)
	if err != nil {
		return nil // not a Dockerfile: a build says why
	}
	for _, f := range findings {
		severity := "LOW"
		if f.Rule == "SecretsUsedInArgOrEnv" {
			severity = "CRITICAL"
		}
		found = append(found, problem{Kind: "misconfig", Rule: f.Rule, Severity: severity, Title: f.Message, File: name, Line: f.Line, URL: f.URL})
	}
	user := ""
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.EqualFold(fields[0], "USER") {
			user = fields[1]
		}
	}
	if user == "" || user == "root" || user == "0" {
		found = append(found, problem{
			Kind: "misconfig", Rule: "DS002", Severity: "HIGH", Title: "Specify at least 1 USER command in Dockerfile with non-root user as argument",
			File: name, Line: 1, URL: "https://avd.aquasec.com/misconfig/ds002",
		})
	}
	return found
}

// report writes the findings as they are asked for.
func (s *Step) report(found []problem) ([]byte, error) {
	switch format := or(s.input("format"), "table"); format {
	case "table":
		return tableOf(found)
	case "json":
		return jsonOf(or(s.input("scan-ref"), "."), found)
	case "sarif":
		return sarifOf(found)
	default:
		return nil, fmt.Errorf("format %q needs trivy, which is not installed on this machine: table, json and sarif are there without", format)
	}
}

func tableOf(found []problem) ([]byte, error) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "SEVERITY\tKIND\tRULE\tWHERE\tWHAT\n")
	for _, p := range found {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s:%d\t%s\n", p.Severity, p.Kind, p.Rule, p.File, p.Line, p.Title)
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "Total: %d\n", len(found))
	return b.Bytes(), nil
}

// jsonOf has the shape of trivy's own.
func jsonOf(target string, found []problem) ([]byte, error) {
	type secret struct {
		RuleID, Category, Severity, Title string
		StartLine, EndLine                int
	}
	type misconfig struct {
		ID, Severity, Title, PrimaryURL, Status string
		CauseMetadata                           struct{ StartLine int }
	}
	type vulnerability struct{ VulnerabilityID, PkgName, InstalledVersion, FixedVersion, Severity, Title, PrimaryURL string }
	type result struct {
		Target, Class     string
		Vulnerabilities   []vulnerability `json:",omitempty"`
		Secrets           []secret        `json:",omitempty"`
		Misconfigurations []misconfig     `json:",omitempty"`
	}
	results := map[string]*result{}
	for _, p := range found {
		key := p.Kind + " " + p.File
		if results[key] == nil {
			results[key] = &result{Target: p.File, Class: p.Kind}
		}
		if p.Kind == "vulnerability" {
			results[key].Class = "lang-pkgs"
			results[key].Vulnerabilities = append(results[key].Vulnerabilities, vulnerability{
				p.Rule, p.osv.Name, p.osv.Version, p.osv.Fixed, p.Severity, p.osv.Summary, p.URL,
			})
			continue
		}
		if p.Kind == "secret" {
			results[key].Secrets = append(results[key].Secrets, secret{p.Rule, "secret", p.Severity, p.Title, p.Line, p.Line})
			continue
		}
		m := misconfig{ID: p.Rule, Severity: p.Severity, Title: p.Title, PrimaryURL: p.URL, Status: "FAIL"}
		m.CauseMetadata.StartLine = p.Line
		results[key].Misconfigurations = append(results[key].Misconfigurations, m)
	}
	all := []*result{}
	for _, p := range found {
		if r := results[p.Kind+" "+p.File]; r != nil && !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	text, err := json.MarshalIndent(map[string]any{"SchemaVersion": 2, "ArtifactName": target, "ArtifactType": "filesystem", "Results": all}, "", "  ")
	return append(text, '\n'), err
}

// sarifOf is SARIF 2.1.0.
func sarifOf(found []problem) ([]byte, error) {
	levels := map[string]string{"CRITICAL": "error", "HIGH": "error", "MEDIUM": "warning", "LOW": "note", "UNKNOWN": "note"}
	rules, results, known := []any{}, []any{}, map[string]int{}
	for _, p := range found {
		if _, ok := known[p.Rule]; !ok {
			known[p.Rule] = len(rules)
			rule := map[string]any{"id": p.Rule, "shortDescription": map[string]any{"text": p.Title}, "defaultConfiguration": map[string]any{"level": levels[p.Severity]}}
			if p.URL != "" {
				rule["helpUri"] = p.URL
			}
			rules = append(rules, rule)
		}
		results = append(results, map[string]any{
			"ruleId": p.Rule, "ruleIndex": known[p.Rule], "level": levels[p.Severity], "message": map[string]any{"text": p.Title},
			"locations": []any{map[string]any{"physicalLocation": map[string]any{
				"artifactLocation": map[string]any{"uri": p.File}, "region": map[string]any{"startLine": max(p.Line, 1)}}}},
		})
	}
	text, err := json.MarshalIndent(map[string]any{
		"version": "2.1.0", "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
		"runs": []any{map[string]any{"tool": map[string]any{"driver": map[string]any{"name": "Penstock", "informationUri": "https://github.com/penstock-ci/penstock", "rules": rules}}, "results": results}},
	}, "", "  ")
	return append(text, '\n'), err
}

// lineOf is the line that an offset of a text lies in, from 1.
func lineOf(text []byte, offset int) int { return 1 + bytes.Count(text[:offset], []byte("\n")) }
