package native

import (
	"errors"
	"io"
	"io/fs"
	"testing"
)

// TestCachesAreListedAndDeleted saves caches as two refs of a repository and one of another, on disk and in layers.
func TestCachesAreListedAndDeleted(t *testing.T) {
	each(t, func(t *testing.T, j *job) {
		j.files(map[string]string{"dir/a": "aaaa", "b": "b"})
		j.must("actions/cache/save@v4", map[string]string{"path": "dir", "key": "one"})
		j.must("actions/cache/save@v4", map[string]string{"path": "b", "key": "two"})
		j.github["repository"] = "octo/repository" // whose name begins with the other's
		j.must("actions/cache/save@v4", map[string]string{"path": "b", "key": "theirs"})
		c := j.host.Cache
		all, err := c.List(t.Context(), "Octo/Repo")
		if err != nil || len(all) != 2 {
			t.Fatalf("got %v, %v", all, err)
		}
		for _, i := range all {
			if i.ID < 1 || i.ID >= 1<<53 || i.Ref != j.github["ref"] || i.Size < 1 || i.Created.IsZero() || i.Used.IsZero() {
				t.Errorf("got %+v", i)
			}
		}
		if was, err := c.Delete(t.Context(), "octo/repository", all[0].ID); was || err != nil {
			t.Errorf("another repository deletes it: %v, %v", was, err)
		}
		if was, err := c.Delete(t.Context(), "octo/repo", all[0].ID); !was || err != nil {
			t.Errorf("got %v, %v", was, err)
		}
		if was, err := c.Delete(t.Context(), "octo/repo", all[0].ID); was || err != nil {
			t.Errorf("it is deleted again: %v, %v", was, err)
		}
		left, err := c.List(t.Context(), "octo/repo")
		if err != nil || len(left) != 1 || left[0].ID != all[1].ID {
			t.Errorf("left are %v, %v", left, err)
		}
	})
}

func TestArtifactsAreFound(t *testing.T) {
	j := newJob(t, "none")
	arts := j.host.Artifacts
	var made []Artifact
	for _, a := range []Artifact{{Run: "9", Attempt: "1", Name: "x"}, {Run: "10", Attempt: "1", Name: "x"}, {Run: "10", Attempt: "2", Name: "x"}} {
		a, err := arts.Create(t.Context(), a, func(w io.Writer) error { _, err := io.WriteString(w, "x"); return err })
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, a)
	}
	runs, err := arts.Runs()
	equal(t, "runs", runs, []string{"10", "9"})
	if err != nil {
		t.Error(err)
	}
	all, err := arts.All("10")
	if err != nil || len(all) != 2 || all[0].ID != made[2].ID {
		t.Errorf("got %v, %v", all, err)
	}
	if _, err := arts.All("../9"); err == nil {
		t.Error("a path is taken for a run")
	}
	found, err := arts.Find(made[0].ID)
	if err != nil || found.Run != "9" || found.Name != "x" {
		t.Errorf("got %v, %v", found, err)
	}
	if _, err := arts.Find(7); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
