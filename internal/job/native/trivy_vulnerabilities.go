package native

import (
	"context"
	"fmt"
	"time"

	"github.com/penstock-ci/penstock/internal/osv"
)

// oldDatabase is how old a database of vulnerabilities may be without a word.
const oldDatabase = 7 * 24 * time.Hour

// vulnerabilities opens the database of this host, nil if there is none: then it says how to get one.
func (s *Step) vulnerabilities() *osv.Database {
	dir := ""
	if s.Host != nil {
		dir = s.Host.Vulnerabilities
	}
	database, err := osv.Open(dir)
	if err != nil {
		s.warning("Known vulnerabilities of dependencies were NOT LOOKED FOR: there is no database of them. Fetch those of your languages from OSV, for example "+
			"curl --create-dirs -o %[1]s/npm/all.zip https://osv-vulnerabilities.storage.googleapis.com/npm/all.zip (and PyPI, Go), or install trivy in a step before this one", dir)
		return nil
	}
	if made := database.Made(); time.Since(made) > oldDatabase {
		s.warning("The database of vulnerabilities is of %s: what was found since is not in it", made.Format(time.DateOnly))
	}
	return database
}

// findVulnerable looks packages up. With ignore-unfixed what nothing can be done about is left out, as by trivy.
func (s *Step) findVulnerable(ctx context.Context, database *osv.Database, packages []osv.Package) ([]problem, error) {
	findings, err := database.Find(ctx, packages)
	if err != nil {
		return nil, err
	}
	s.info("%d packages of lock files are looked up in the database of %v", len(packages), database.Ecosystems())
	var found []problem
	for _, f := range findings {
		fix := "no version without it is known"
		if f.Fixed != "" {
			fix = "fixed in " + f.Fixed
		} else if s.loose("ignore-unfixed") {
			continue
		}
		found = append(found, problem{
			Kind: "vulnerability", Rule: f.ID, Severity: f.Severity, Title: fmt.Sprintf("%s %s: %s (%s)", f.Name, f.Version, f.Summary, fix),
			File: f.File, Line: f.Line, URL: "https://osv.dev/vulnerability/" + f.ID, osv: f,
		})
	}
	return found, nil
}
