package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

func TestDocuments(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		add := func(kind, parent, name, body string) *Document {
			t.Helper()
			d := &Document{Repository: "octo/hello", Kind: kind, Parent: parent, Name: name, Body: []byte(body)}
			if err := s.AddDocument(ctx, d); err != nil {
				t.Fatal(err)
			}
			return d
		}
		first := add("comment", "12", "", `{"body":"one"}`)
		second := add("comment", "12", "", `{"body":"two"}`)
		other := add("comment", "13", "", `{}`)
		label := add("label", "", "bug", `{}`)
		if first.ID == 0 || second.ID <= first.ID || other.ID <= second.ID {
			t.Errorf("numbers %d, %d, %d do not grow", first.ID, second.ID, other.ID)
		}

		twelve := "12"
		for _, test := range []struct {
			filter DocumentFilter
			want   string
		}{
			{DocumentFilter{Parent: &twelve}, `[{"body":"one"} {"body":"two"}]`},
			{DocumentFilter{Parent: &twelve, Newest: true}, `[{"body":"two"} {"body":"one"}]`},
			{DocumentFilter{Parent: &twelve, Offset: 1}, `[{"body":"two"}]`},
			{DocumentFilter{Limit: 1}, `[{"body":"one"}]`},
			{DocumentFilter{}, `[{"body":"one"} {"body":"two"} {}]`},
		} {
			test.filter.Repository, test.filter.Kind = "octo/hello", "comment"
			found, err := s.Documents(ctx, test.filter)
			if err != nil {
				t.Fatal(err)
			}
			var bodies []string
			for _, d := range found {
				bodies = append(bodies, string(d.Body))
			}
			if got := fmt.Sprint(bodies); got != test.want {
				t.Errorf("%+v: %s, not %s", test.filter, got, test.want)
			}
		}

		if err := s.AddDocument(ctx, &Document{Repository: "octo/hello", Kind: "label", Name: "bug"}); !errors.Is(err, ErrExists) {
			t.Errorf("a name twice: %v", err)
		}
		add("label", "deep", "bug", `{}`) // the same below another parent
		label.Name = "fault"
		if err := s.SaveDocument(ctx, label); err != nil || label.Version != 2 {
			t.Errorf("a new name: version %d, %v", label.Version, err)
		}
		if found, err := s.DocumentNamed(ctx, "octo/hello", "label", "", "fault"); err != nil || found.ID != label.ID {
			t.Errorf("by its new name: %+v, %v", found, err)
		}
		if err := s.SaveDocument(ctx, &Document{ID: label.ID, Version: 1}); !errors.Is(err, ErrConflict) {
			t.Errorf("saved over a newer one: %v", err)
		}
		add("label", "", "bug", `{}`)
		label.Name = "bug"
		if err := s.SaveDocument(ctx, label); !errors.Is(err, ErrExists) {
			t.Errorf("renamed to a name that is taken: %v", err)
		}

		if _, err := s.Document(ctx, "octo/other", "comment", first.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("through another repository: %v", err)
		}
		if err := s.DeleteDocument(ctx, first.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Document(ctx, "octo/hello", "comment", first.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("a deleted one: %v", err)
		}
	})
}

func TestNumbersAreGivenOnce(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		var mu sync.Mutex
		seen := map[int64]bool{}
		var work sync.WaitGroup
		for range 20 {
			work.Go(func() {
				n, err := s.NextNumber(t.Context(), "octo/hello")
				mu.Lock()
				defer mu.Unlock()
				if err != nil || n < 1 || n > 20 || seen[n] {
					t.Errorf("number %d, %v", n, err)
				}
				seen[n] = true
			})
		}
		work.Wait()
		if n, err := s.NextNumber(t.Context(), "octo/other"); n != 1 || err != nil {
			t.Errorf("another repository begins at %d, %v", n, err)
		}
	})
}
