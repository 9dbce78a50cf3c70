package store

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/expr"
)

// Text that a user chose freely: what one database would take, all must.
func TestAnyTextIsStored(t *testing.T) {
	everyKind(t, func(t *testing.T, s *Store) {
		long := strings.Repeat("long \U0001F6B0", 5000)
		for i, name := range []string{"a\x00b", "a\uFFFDb", "\xff\xfe", long + "1", long + "2", "'; DROP TABLE runs; --", "$1 %s {{}}"} {
			run := create(t, s, plan(t, twoCells, func(p *ci.Plan) {
				p.GitHub = p.GitHub.With("ref", expr.String("refs/heads/"+name)).With("actor", expr.String(name))
			}))
			run.Name = name
			ended := make(chan error, 1)
			claims := []ci.Claim{{Key: name, Held: true, Since: noon}}
			s.Save(Save{Run: run, From: run.Version, Before: run.Jobs, Claims: claims, ClaimsChanged: true}, func(err error) { ended <- err })
			if err := <-ended; err != nil {
				t.Fatalf("text %d: %v", i, err)
			}
			if found, err := s.Claims(t.Context(), "octo/hello", name); err != nil || len(found) != 1 || found[0].Run != run.ID {
				t.Errorf("claims by text %d: %d of them, %v, want the one that was stored", i, len(found), err)
			}
			if got := load(t, s, run.ID).Name; got != strings.ToValidUTF8(name, "\uFFFD\uFFFD") {
				t.Errorf("name %d came back as %.40q", i, got)
			}
		}
	})
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{
		"sqlite::memory:", "sqlite:a?mode=ro", "sqlite:", "postgres://u@h:1/d?sslmode=disable", "postgresql:///d?host=/run&port=1",
		"postgres://h/d?connect_timeout=x", "postgres:u", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const secret = "s3cr3t-w0rd"
		for _, url := range []string{text, strings.Replace(text, "//", "//mona:"+secret+"@", 1), text + "?password=" + secret} {
			if strings.Count(url, "?") > 1 {
				continue // then what follows the second is no parameter
			}
			from, err := parseURL(url)
			if err != nil && strings.HasPrefix(url, "postgres") && strings.Contains(err.Error(), secret) {
				t.Errorf("the error of %q has the password: %v", url, err)
			}
			if err == nil && from.shared && strings.Contains(from.name+from.dialect.(postgresDialect).where(), secret) {
				t.Errorf("the name of %q has the password: %s", url, from.name)
			}
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{"b":1.0,"a":[true,null,"<"]}`, `1e999`, ` "x" `, `{} {}`, `[`, ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		once, err := canonical(text)
		if err != nil || len(once) == 0 {
			return
		}
		again, err := canonical(once)
		if len(once) <= maxAudit && (err != nil || string(again) != string(once)) {
			t.Errorf("%s becomes %s, and that %s, %v", text, once, again, err)
		}
		a := Audit{Details: once}
		body, err := json.Marshal(a)
		var back Audit
		if err != nil || json.Unmarshal(body, &back) != nil || string(back.Details) != string(once) {
			t.Errorf("%s is in the record as %s, %v", once, body, err)
		}
	})
}

func FuzzParseScope(f *testing.F) {
	for _, seed := range []string{"owner/octo", "repository/1", "repository/1/environment/prod", "repository/01", "repository/-1", "x", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseScope(text)
		if err != nil || c.check() != nil {
			return
		}
		again, err := parseScope(c.String())
		if err != nil || again.String() != c.String() {
			t.Errorf("%q is %+v, which is %+v, %v", text, c, again, err)
		}
	})
}
