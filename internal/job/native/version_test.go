package native

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
)

// TestVersionRangesAreNpms holds the ranges against npm's own semver, which comes with npm.
func TestVersionRangesAreNpms(t *testing.T) {
	root, err := exec.Command("npm", "root", "-g").Output()
	if err != nil {
		t.Fatal(err)
	}
	ranges := []string{
		"18", "18.x", "18.*", "v18", "18.2", "18.2.x", "18.2.1", "=18.2.1", "v18.2.1", ">=18", ">=18.2", ">18", ">18.2", "<20", "<=20", "<=20.1", "<20.1.0",
		">=18 <21", ">= 18 < 21", ">=18.0.0 <20 || >=22", "18 || 20", "^18", "^18.2", "^18.2.1", "~18", "~18.2", "~18.2.1", "^0.12", "^0.0.3", "~0.12", "18 - 20",
		"18.2.1 - 20.1", "*", "x", "", "X.x", "1", "3.x", "3.11", "3.12 - 3.13", ">=3.8 <4.0", ">=3.8  <4", "~3.13.0-0", "3.13.0-rc1", ">=3.13.0-rc1", "3.9.0-alpha - 3.13",
		"1.22.x", "^1.21.0", ">=1.21.0 <1.23.0", "~1.22", "1.22.0-rc.1", "18.2.1-0", ">=18.0.0-0", "not a range", ">>1", "1.2.3.4", "==3.8", "=>3", "~=3.8", "lts/x", "!=3", "3.*.1",
	}
	versions := []string{
		"0.0.2", "0.0.3", "0.12.1", "0.13.0", "1.0.0", "1.21.0", "1.21.13", "1.22.0", "1.22.0-rc.1", "1.22.7", "1.23.0", "2.7.18", "3.0.0", "3.8.0", "3.11.0", "3.11.7",
		"3.12.0", "3.13.0-a1", "3.13.0-rc1", "3.13.0-rc2", "3.13.0", "3.13.1", "3.14.0-a1", "4.0.0", "16.20.2", "18.0.0", "18.2.0", "18.2.1", "18.2.1-0", "18.3.0", "19.0.0",
		"20.0.0", "20.1.0", "20.1.5", "20.2.0", "21.0.0", "22.0.0",
	}
	ask, err := json.Marshal(map[string]any{"ranges": ranges, "versions": versions})
	if err != nil {
		t.Fatal(err)
	}
	const script = `const s = require(process.argv[1]); const a = JSON.parse(require('fs').readFileSync(0));
console.log(JSON.stringify(a.ranges.map(r => s.validRange(r) === null ? null : a.versions.filter(v => s.satisfies(v, r)).join(' '))))`
	cmd := exec.Command("node", "-e", script, filepath.Join(strings.TrimSpace(string(root)), "npm", "node_modules", "semver"))
	cmd.Stdin = strings.NewReader(string(ask))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []*string
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	for i, r := range ranges {
		fits := versionRange(r)
		if (fits == nil) != (want[i] == nil) {
			t.Errorf("%q is a range here: %v, there: %v", r, fits != nil, want[i] != nil)
		}
		if fits == nil || want[i] == nil {
			continue
		}
		var got []string
		for _, v := range versions {
			if fits(semver.MustParse(v)) {
				got = append(got, v)
			}
		}
		if g := strings.Join(got, " "); g != *want[i] {
			t.Errorf("%q:\n  got %s\n want %s", r, g, *want[i])
		}
	}
}

func FuzzVersionRange(f *testing.F) {
	for _, seed := range []string{">=18 <20 || 22.x", "~3.13.0-0", "==3.8.*", "1 - 2", "v=v1", "^0.0.x", "lts/*"} {
		f.Add(seed)
	}
	v := []*semver.Version{semver.MustParse("1.2.3"), semver.MustParse("3.13.0-rc1")}
	f.Fuzz(func(t *testing.T, text string) {
		for _, find := range []func(string) (func(*semver.Version) bool, error){
			func(s string) (func(*semver.Version) bool, error) { return versionRange(s), nil },
			func(s string) (func(*semver.Version) bool, error) { return pythonFits(s, true) },
			func(s string) (func(*semver.Version) bool, error) { return goFits(s, nil) },
			func(s string) (func(*semver.Version) bool, error) { return nodeFits(s, nil, nil) },
		} {
			fits, err := find(text)
			if err != nil || fits == nil {
				continue
			}
			for _, x := range v {
				fits(x)
			}
		}
	})
}
