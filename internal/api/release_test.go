package api

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

const releasedFiles = `-- penstock.yaml --
services:
  web: {command: ./web, port: 8000}
environments:
  production: {}
-- web --
the program
`

// handIn gives files to the server and returns status and answer.
func (m *team) handIn(body []byte) (int, map[string]string) {
	m.t.Helper()
	req, err := http.NewRequest("PUT", m.url+pagePath+"/repos/acme/shop/files", bytes.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("Authorization", "token "+m.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer res.Body.Close()
	said := map[string]string{}
	if err := json.NewDecoder(res.Body).Decode(&said); err != nil {
		m.t.Fatal(err)
	}
	return res.StatusCode, said
}

func archive(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "web", Size: int64(len(text)), Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestServerReleaseFiles holds that files are kept as they were handed in, once, for as long as a release may need them.
func TestServerReleaseFiles(t *testing.T) {
	m := newTeam(t)
	m.push("main", releasedFiles)
	status, said := m.handIn(archive(t, "one"))
	one := said["digest"]
	if status != http.StatusCreated || !digestText.MatchString(one) {
		t.Fatalf("got %d, %v", status, said)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(archive(t, "one")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if _, said := m.handIn(packed.Bytes()); said["digest"] != one {
		t.Errorf("compressed, the same files are %s, not %s", said["digest"], one)
	}
	for _, bad := range [][]byte{[]byte(strings.Repeat("no archive ", 100)), []byte("\x1f\x8bno gzip"), packed.Bytes()[:packed.Len()-4]} {
		if status, said := m.handIn(bad); status != http.StatusUnprocessableEntity || !strings.Contains(said["message"], "no tar archive") {
			t.Errorf("%.20q: got %d, %v", bad, status, said)
		}
	}
	_, said = m.handIn(archive(t, "two"))
	two := said["digest"]

	status, body := m.ask("POST", pagePath+"/repos/acme/shop/releases", ReleaseRequest{Environment: "production", Artifacts: map[string]string{"web": one}})
	if status != http.StatusCreated {
		t.Fatalf("got %d, %v", status, body)
	}
	for _, digest := range []string{strings.Repeat("0", 64), "../../keys.json", ""} {
		if digest == "" {
			continue
		}
		if status, body := m.ask("POST", pagePath+"/repos/acme/shop/releases", ReleaseRequest{Environment: "production", Artifacts: map[string]string{"": digest}}); status != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %d, %v", digest, status, body)
		}
	}

	kept := func() []string {
		t.Helper()
		all, err := m.s.Blobs.List("releases/")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, b := range all {
			names = append(names, strings.TrimPrefix(b.Key, filesPrefix))
		}
		slices.Sort(names)
		return names
	}
	want := []string{one, two}
	slices.Sort(want)
	if err := m.s.SweepFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := kept(); !slices.Equal(got, want) {
		t.Errorf("fresh files: got %v, want %v", got, want)
	}
	m.ahead.Store(int64(25 * time.Hour))
	if err := m.s.SweepFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := kept(); !slices.Equal(got, []string{one}) {
		t.Errorf("a day later: got %v, want what the release needs, %s", got, one)
	}
}

// TestServerEnvironmentEvents holds that a stream tells an environment as it is, at once and whenever it has changed.
func TestServerEnvironmentEvents(t *testing.T) {
	m := newTeam(t)
	m.push("main", releasedFiles)
	stream := func() func() EnvironmentView {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", m.url+pagePath+"/repos/acme/shop/environments/production/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "token "+m.token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		lines := bufio.NewScanner(res.Body)
		return func() (v EnvironmentView) {
			t.Helper()
			for lines.Scan() {
				if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
					if err := json.Unmarshal([]byte(data), &v); err != nil {
						t.Fatal(err)
					}
					return v
				}
			}
			t.Fatalf("the stream has ended: %v", lines.Err())
			return v
		}
	}
	next := stream()
	if v := next(); len(v.Releases) != 0 || v.Environment != "production" || !v.MayRelease {
		t.Errorf("before anything is released: got %+v", v)
	}
	status, body := m.ask("POST", pagePath+"/repos/acme/shop/releases", ReleaseRequest{Environment: "production"})
	if status != http.StatusCreated {
		t.Fatalf("got %d, %v", status, body)
	}
	if v := next(); len(v.Releases) != 1 || v.Releases[0].Number != 1 {
		t.Errorf("released: got %+v", v)
	}
	if status, body := m.ask("POST", fmt.Sprintf("%s/repos/acme/shop/releases/%v/abort", pagePath, body.(map[string]any)["id"]), ReleaseAction{Reason: "enough"}); status != http.StatusOK {
		t.Fatalf("got %d, %v", status, body)
	}
	for v := next(); len(v.Releases) > 0; v = next() {
	}
	if v := stream()(); v.TakenBack == nil || v.TakenBack.Number != 1 || !strings.Contains(v.TakenBack.Reason, "enough") {
		t.Errorf("who comes again is told of %+v", v)
	}
	if status, _ := m.askAs("", "GET", pagePath+"/repos/acme/shop/environments/production/events", nil); status != http.StatusUnauthorized && status != http.StatusNotFound {
		t.Errorf("a stranger gets %d", status)
	}
}

// TestServerDeclared holds that pages are told what penstock.yaml says of environments, and what is wrong with it.
func TestServerDeclared(t *testing.T) {
	m := newTeam(t)
	declared := func() (v DeclaredView) {
		t.Helper()
		status, body := m.ask("GET", pagePath+"/repos/acme/shop/environments", nil)
		text, err := json.Marshal(body)
		if err == nil {
			err = json.Unmarshal(text, &v)
		}
		if status != http.StatusOK || err != nil {
			t.Fatalf("got %d, %v, %v", status, body, err)
		}
		return v
	}
	m.push("main", "-- README --\nnothing yet\n")
	if v := declared(); !v.Missing {
		t.Errorf("without the file: got %+v", v)
	}
	m.push("main", "-- penstock.yaml --\nservices: 7\n")
	if v := declared(); v.Missing || !strings.HasPrefix(v.Mistake, "penstock.yaml (Line: 1, Col: 11)") {
		t.Errorf("with a mistake: got %+v", v)
	}
	m.push("main", releasedFiles+"-- penstock.yaml --\nservices: {web: {command: ./web, port: 1}, api: {command: ./api, port: 2, path: /api}}\nenvironments: {staging: {branch: main}}\n")
	if v := declared(); v.Missing || v.Mistake != "" || fmt.Sprint(v.Environments) != "[{staging [web api] [main]}]" {
		t.Errorf("got %+v", v)
	}
}

// TestHostClaims says which claims of different environments can not both be had.
func TestHostClaims(t *testing.T) {
	shop := hostClaim{"acme", "shop.test", ""}
	for _, c := range []struct {
		other hostClaim
		want  bool
	}{
		{hostClaim{"acme", "shop.test", ""}, true},
		{hostClaim{"acme", "shop.test", "/api"}, false},
		{hostClaim{"acme", "*.test", ""}, false},
		{hostClaim{"mallory", "shop.test", ""}, true},
		{hostClaim{"mallory", "shop.test", "/login"}, true},
		{hostClaim{"mallory", "*.test", ""}, true},
		{hostClaim{"mallory", "*.shop.test", ""}, false},
		{hostClaim{"mallory", "workshop.test", ""}, false},
	} {
		if got, back := shop.disputes(c.other), c.other.disputes(shop); got != c.want || back != c.want {
			t.Errorf("%v: got %v and %v, want %v", c.other, got, back, c.want)
		}
	}
}

// TestServerHosts has a host lead to one environment, and says so to who writes it for another.
func TestServerHosts(t *testing.T) {
	m := newTeam(t)
	m.push("main", `-- penstock.yaml --
services: {web: {command: ./web, port: 8000}}
environments:
  production: {hosts: [shop.test]}
`)
	begin := func(environment string) (int, string) {
		t.Helper()
		status, body := m.ask("POST", pagePath+"/repos/acme/shop/releases", ReleaseRequest{Environment: environment})
		return status, fmt.Sprint(body)
	}
	if status, said := begin("production"); status != http.StatusCreated {
		t.Fatalf("got %d, %s", status, said)
	}
	m.push("main", `-- penstock.yaml --
services: {web: {command: ./web, port: 8000}}
environments:
  staging:
    hosts: [staging.test]
    strategy: {blue-green: {test_traffic_route: {hosts: [shop.test]}}}
`)
	if status, said := begin("staging"); status != http.StatusUnprocessableEntity || !strings.Contains(said, "shop.test leads to production, by its v1") {
		t.Errorf("got %d, %s", status, said)
	}

	// Production is removed, so its host is free; what served there can not be had again while another has that.
	production := func(action string, ask any) (int, string) {
		t.Helper()
		status, body := m.ask("POST", pagePath+"/repos/acme/shop/environments/production/"+action, ask)
		return status, fmt.Sprint(body)
	}
	seen := func(state cd.State) {
		t.Helper()
		if err := m.s.Releases.Update(t.Context(), 1, cd.Observed{Service: "web", Instance: cd.Instance{State: state}}); err != nil {
			t.Fatal(err)
		}
	}
	seen(cd.Healthy)
	if status, said := production("remove", RemoveRequest{Reason: "moved"}); status != http.StatusOK || !strings.Contains(said, "removed what is released to production: moved") {
		t.Fatalf("got %d, %s", status, said)
	}
	seen(cd.Stopped)
	if status, said := production("remove", RemoveRequest{}); status != http.StatusUnprocessableEntity || !strings.Contains(said, "nothing of it runs") {
		t.Errorf("got %d, %s", status, said)
	}
	if status, said := begin("staging"); status != http.StatusCreated {
		t.Errorf("got %d, %s", status, said)
	}
	for _, ask := range []RollbackRequest{{}, {To: 1}} {
		if status, said := production("rollback", ask); status != http.StatusUnprocessableEntity || !strings.Contains(said, "shop.test leads to staging, by its v1") {
			t.Errorf("got %d, %s", status, said)
		}
	}
	if err := m.s.Releases.Update(t.Context(), 2, cd.Abort{By: "mona"}); err != nil {
		t.Fatal(err)
	}
	if status, said := production("rollback", RollbackRequest{}); status != http.StatusOK {
		t.Errorf("got %d, %s", status, said)
	}
}
