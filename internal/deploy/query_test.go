package deploy

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

func TestResolve(t *testing.T) {
	plan := &cd.Plan{Repository: "acme/shop", Environment: "production"}
	for _, row := range []struct{ query, want, fails string }{
		{query: `sum(rate(x{app="{{ target }}", ns="{{ namespace }}"}[{{ interval }}]))`, want: `sum(rate(x{app="web", ns="production"}[90s]))`},
		{query: "a\n  +\tb", want: "a + b"},
		{query: `{{ variables.limit }}`, want: "5"},
		{query: `{{ variables.nothing }}`, fails: "nothing"},
		{query: `{{ target`, fails: "query of m"},
		{query: `{{ env "HOME" }}`, fails: "env"},
		{query: `{{ range $i := "` + strings.Repeat("x", 100) + `" }}x{{ end }}`, fails: "range"},
		{query: strings.Repeat("{{ target }}", 9000), fails: "longer"},
	} {
		got, err := Resolve(&cd.Metric{Name: "m", Query: row.query, Interval: 90 * time.Second, Variables: map[string]string{"limit": "5"}}, plan, "web")
		if row.fails != "" {
			if err == nil || !strings.Contains(err.Error(), row.fails) {
				t.Errorf("%.40s: got %v, want an error with %q", row.query, err, row.fails)
			}
			continue
		}
		if err != nil || got != row.want {
			t.Errorf("%.40s: got %q, %v", row.query, got, err)
		}
	}
}
