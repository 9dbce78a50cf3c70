package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/workflow"
)

var fenced = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")

// TestGuides reads every example of the guides as what it is: a workflow, a manifest that says its path, a penstock.yaml.
func TestGuides(t *testing.T) {
	for _, name := range []string{"releases.md", "blue-green.md", "canary.md"} {
		text, err := os.ReadFile(filepath.Join("../../docs", name))
		if err != nil {
			t.Fatal(err)
		}
		manifests := map[string]string{}
		var files []string
		for _, m := range fenced.FindAllStringSubmatch(string(text), -1) {
			switch block := m[1]; {
			case strings.Contains(block, "\napiVersion: "):
				path, _, _ := strings.Cut(strings.TrimPrefix(block, "# "), "\n")
				manifests[path] = block
			case strings.HasPrefix(block, "on:"):
				if _, err := workflow.ParseWorkflow(name, []byte(block)); err != nil {
					t.Errorf("%s: %v\n%s", name, err, block)
				}
			default:
				files = append(files, block)
			}
		}
		if len(files) == 0 {
			t.Errorf("%s has no examples", name)
		}
		for _, block := range files {
			c, err := Parse(name, []byte(block))
			if err != nil {
				t.Errorf("%v\n%s", err, block)
				continue
			}
			for _, e := range c.Environments {
				_, notes, err := e.Strategy(func(path string) ([]byte, error) {
					if text, ok := manifests[path]; ok {
						return []byte(text), nil
					}
					return nil, fs.ErrNotExist
				})
				if err != nil || len(notes) > 0 {
					t.Errorf("%v, %v\n%s", err, notes, block)
				}
			}
			if len(c.Notes) > 0 {
				t.Errorf("%v\n%s", c.Notes, block)
			}
		}
	}
}
