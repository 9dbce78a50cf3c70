package examples

import (
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestWhole: the program has what the repository has.
func TestWhole(t *testing.T) {
	out, err := exec.Command("git", "ls-files", "-z", "prompt-stack").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	var got []string
	err = fs.WalkDir(PromptStack, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			got = append(got, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("embedded %v\nin git %v", got, want)
	}
}
