// Package osv finds known vulnerabilities of the dependencies that lock files name, in databases as osv.dev publishes
// them: one archive for each ecosystem, DIR/npm/all.zip, DIR/PyPI/all.zip, DIR/Go/all.zip. It reads files and nothing
// else: it fetches no database, runs nothing, and knows no jobs.
package osv

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	gocvss30 "github.com/pandatix/go-cvss/30"
	gocvss31 "github.com/pandatix/go-cvss/31"
	gocvss40 "github.com/pandatix/go-cvss/40"
)

// The ecosystems that lock files are read of, by OSV's names.
const (
	NPM  = "npm"
	PyPI = "PyPI"
	Go   = "Go"
)

// Package is a dependency as a lock file pins it.
type Package struct {
	Ecosystem, Name, Version string
	File                     string // the lock file
	Line                     int    // in it, from 1; 0 if it is not known
}

// Finding is a vulnerability of a package.
type Finding struct {
	Package
	ID       string // the CVE's where there is one, else the advisory's
	Severity string // CRITICAL, HIGH, MEDIUM, LOW, UNKNOWN
	Summary  string
	Fixed    string // the first version without it, empty if there is none
}

// maxAdvisory bounds one advisory, bytes.
const maxAdvisory = 8 << 20

// advisory is what is read of an OSV document (https://ossf.github.io/osv-schema/).
type advisory struct {
	ID        string
	Aliases   []string
	Summary   string
	Details   string
	Withdrawn string
	Severity  []score
	Affected  []affected
	Specific  struct{ Severity string } `json:"database_specific"`
}

type score struct{ Type, Score string }

type affected struct {
	Package  struct{ Ecosystem, Name string }
	Ranges   []versionRange
	Versions []string
	Severity []score
}

type versionRange struct {
	Type   string
	Events []struct {
		Introduced   string
		Fixed        string
		LastAffected string `json:"last_affected"`
	}
}

func readAdvisory(r io.Reader) (*advisory, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxAdvisory+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxAdvisory {
		return nil, fmt.Errorf("an advisory of more than %d bytes", maxAdvisory)
	}
	var a advisory
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, err
	}
	return &a, nil
}

// hits gives the finding if the advisory is about this version of the package.
func (a *advisory) hits(p Package) (Finding, bool) {
	if a.Withdrawn != "" {
		return Finding{}, false
	}
	for _, f := range a.Affected {
		if !strings.EqualFold(f.Package.Ecosystem, p.Ecosystem) || canonical(p.Ecosystem, f.Package.Name) != canonical(p.Ecosystem, p.Name) {
			continue
		}
		if in, fixed := f.contains(p); in {
			return Finding{Package: p, ID: a.name(), Severity: a.rating(f), Summary: a.title(), Fixed: fixed}, true
		}
	}
	return Finding{}, false
}

// name is the CVE's, by which people know it.
func (a *advisory) name() string {
	for _, alias := range a.Aliases {
		if strings.HasPrefix(alias, "CVE-") {
			return alias
		}
	}
	return a.ID
}

func (a *advisory) title() string {
	if a.Summary != "" {
		return a.Summary
	}
	line, _, _ := strings.Cut(strings.TrimSpace(a.Details), "\n")
	if r := []rune(line); len(r) > 200 {
		line = string(r[:200]) + " ..."
	}
	return line
}

// ratings are GitHub's words for severities in trivy's.
var ratings = map[string]string{"CRITICAL": "CRITICAL", "HIGH": "HIGH", "MODERATE": "MEDIUM", "MEDIUM": "MEDIUM", "LOW": "LOW"}

// rating is what the database says, else what the CVSS vector comes to.
func (a *advisory) rating(f affected) string {
	if r, ok := ratings[strings.ToUpper(a.Specific.Severity)]; ok {
		return r
	}
	for _, s := range append(f.Severity, a.Severity...) {
		if points, ok := s.points(); ok {
			switch { // https://www.first.org/cvss/v3.1/specification-document, section 5
			case points >= 9:
				return "CRITICAL"
			case points >= 7:
				return "HIGH"
			case points >= 4:
				return "MEDIUM"
			case points > 0:
				return "LOW"
			}
		}
	}
	return "UNKNOWN"
}

func (s score) points() (float64, bool) {
	switch {
	case strings.HasPrefix(s.Score, "CVSS:4.0/"):
		if v, err := gocvss40.ParseVector(s.Score); err == nil {
			return v.Score(), true
		}
	case strings.HasPrefix(s.Score, "CVSS:3.1/"):
		if v, err := gocvss31.ParseVector(s.Score); err == nil {
			return v.BaseScore(), true
		}
	case strings.HasPrefix(s.Score, "CVSS:3.0/"):
		if v, err := gocvss30.ParseVector(s.Score); err == nil {
			return v.BaseScore(), true
		}
	}
	return 0, false
}
