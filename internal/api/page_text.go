package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/go-chi/chi/v5"

	"github.com/penstock-ci/penstock/internal/ci"
)

// textPages are the pages as plain text, at the same addresses: for curl, and for whoever does not ask for HTML. What they show is
// what GitHub's API answers the visitor.
func (s *Server) textPages() http.Handler {
	mux := chi.NewRouter()
	mux.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "There is no such page.", http.StatusNotFound)
	})
	mux.Get("/", s.repositoriesText)
	mux.Get("/runners", s.listText(runnersText))
	mux.Get("/audit", s.auditText)
	mux.Get("/{owner}/{repo}", s.listText(runsText))
	mux.Get("/{owner}/{repo}/actions", s.listText(runsText))
	for _, attempt := range []string{"", "/attempts/{attempt}"} {
		mux.Get("/{owner}/{repo}/actions/runs/{run}"+attempt, s.runText)
		mux.Get("/{owner}/{repo}/actions/runs/{run}"+attempt+"/job/{number}", s.jobText)
	}
	mux.Get("/{owner}/{repo}/pulls", s.listText(pullsText))
	mux.Get("/{owner}/{repo}/pull/{number}", s.pullText)
	mux.Get("/{owner}/{repo}/environments", s.listText(environmentsText))
	mux.Get("/{owner}/{repo}/environments/{environment}", s.environmentText)
	mux.Get("/{owner}/{repo}/environments/{environment}/{number}", s.versionText)
	mux.Get("/{owner}/{repo}/caches", s.listText(cachesText))
	mux.Get("/{owner}/{repo}/settings", s.settingsText)
	return mux
}

// wantsText says whether a request for a page is one of a program that shows no HTML.
func wantsText(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && !strings.Contains(accept, "text/html") && !strings.HasPrefix(r.URL.Path, "/assets/") && r.URL.Path != "/icon.svg" &&
		(strings.Contains(accept, "text/plain") || accept == "" || accept == "*/*")
}

// textTable is a list as a table.
type textTable struct {
	from  string   // path of GitHub's API, below the repository unless it begins with /
	field string   // of the answer that has the list; "" for the answer itself
	head  []string // of the columns
	none  string
	row   func(o textObject) []string
	link  func(s *Server, repo string, o textObject) string // of one item
}

var runsText = textTable{
	"actions/runs?per_page=30", "workflow_runs", []string{"STATUS", "TITLE", "WORKFLOW", "BRANCH", "EVENT", "BY", "AGE"},
	"No runs yet: push a repository with workflows in .github/workflows.",
	func(o textObject) []string {
		return []string{state(o), o.text("display_title"), o.text("name"), o.text("head_branch"), o.text("event"), o.in("actor").text("login"), age(o.text("created_at"))}
	},
	func(s *Server, repo string, o textObject) string {
		return fmt.Sprintf("%s/%s/actions/runs/%s", s.URL, repo, o.text("id"))
	},
}

var pullsText = textTable{
	"pulls?state=all&per_page=30", "", []string{"NUMBER", "TITLE", "STATE", "FROM", "INTO", "BY", "AGE"},
	"No pull requests: open one by git push origin HEAD:refs/for/main.",
	func(o textObject) []string {
		return []string{"#" + o.text("number"), o.text("title"), o.text("state"), o.in("head").text("ref"), o.in("base").text("ref"), o.in("user").text("login"), age(o.text("created_at"))}
	},
	func(s *Server, repo string, o textObject) string {
		return fmt.Sprintf("%s/%s/pull/%s", s.URL, repo, o.text("number"))
	},
}

var environmentsText = textTable{
	"environments?per_page=100", "environments", []string{"ENVIRONMENT", "UPDATED"}, "No environments: penstock.yaml says which, and a job with `environment:` makes one.",
	func(o textObject) []string { return []string{o.text("name"), age(o.text("updated_at"))} }, nil,
}

var cachesText = textTable{
	"actions/caches?per_page=100", "actions_caches", []string{"KEY", "BRANCH", "KIB", "USED", "ID"}, "No caches: actions/cache keeps some.",
	func(o textObject) []string {
		return []string{o.text("key"), o.text("ref"), strconv.FormatInt(int64(o.number("size_in_bytes"))>>10, 10), age(o.text("last_accessed_at")), o.text("id")}
	}, nil,
}

var runnersText = textTable{
	"/orgs/server/actions/runners?per_page=100", "runners", []string{"RUNNER", "STATUS", "BUSY", "OS", "LABELS"}, "No runners besides the server's own: penstock runner --url URL --token T.",
	func(o textObject) []string {
		var labels []string
		list, _ := o["labels"].([]any)
		for _, l := range list {
			l, _ := l.(map[string]any)
			labels = append(labels, textObject(l).text("name"))
		}
		return []string{o.text("name"), o.text("status"), o.text("busy"), o.text("os"), strings.Join(labels, ",")}
	}, nil,
}

// textObject is an object of an answer.
type textObject map[string]any

func (o textObject) in(name string) textObject { in, _ := o[name].(map[string]any); return in }

func (o textObject) number(name string) float64 { n, _ := o[name].(float64); return n }

// text is a member in one line, with nothing in it that a terminal takes for more than text.
func (o textObject) text(name string) string {
	switch v := o[name].(type) {
	case string:
		return plainText(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// plainText makes one line of a text, without control characters and those that turn its direction.
func plainText(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, text)
}

func state(o textObject) string {
	if c := o.text("conclusion"); c != "" {
		return c
	}
	return o.text("status")
}

// age says how long ago a time was.
func age(stamp string) string {
	at, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return ""
	}
	d := time.Since(at)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// keptAnswer keeps what a handler answers.
type keptAnswer struct {
	header http.Header
	status int
	body   strings.Builder
}

func (a *keptAnswer) Header() http.Header         { return a.header }
func (a *keptAnswer) WriteHeader(status int)      { a.status = status }
func (a *keptAnswer) Write(p []byte) (int, error) { return a.body.Write(p) }

// asks asks GitHub's API as the visitor; false after an answer that is an error was passed on.
func (s *Server) asks(w http.ResponseWriter, r *http.Request, path string, into any) bool {
	u, err := url.Parse("/api/v3" + path)
	if err != nil {
		http.Error(w, "There is no such page.", http.StatusNotFound)
		return false
	}
	asked := r.Clone(r.Context())
	asked.Method, asked.URL, asked.RequestURI = http.MethodGet, u, u.RequestURI()
	asked.Header = http.Header{"Accept": {"application/json"}}
	got := &keptAnswer{header: http.Header{}, status: http.StatusOK}
	s.rest.ServeHTTP(got, asked, visitorOf(r).caller())
	if got.status != http.StatusOK {
		var o textObject
		_ = json.Unmarshal([]byte(got.body.String()), &o)
		http.Error(w, o.text("message"), got.status)
		return false
	}
	if err := json.Unmarshal([]byte(got.body.String()), into); err != nil {
		s.failed(w, r, err)
		return false
	}
	return true
}

// beginText begins a page.
func beginText(w http.ResponseWriter) *tabwriter.Writer {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
	return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
}

func fullName(r *http.Request) string { return r.PathValue("owner") + "/" + r.PathValue("repo") }

// listText answers a table.
func (s *Server) listText(t textTable) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		path := t.from
		if !strings.HasPrefix(path, "/") {
			path = "/repos/" + fullName(r) + "/" + path
		}
		var list []any
		if t.field == "" {
			if !s.asks(w, r, path, &list) {
				return
			}
		} else {
			var o textObject
			if !s.asks(w, r, path, &o) {
				return
			}
			list, _ = o[t.field].([]any)
		}
		s.writeTable(beginText(w), t, fullName(r), list)
	}
}

func (s *Server) writeTable(out *tabwriter.Writer, t textTable, repo string, list []any) {
	defer out.Flush()
	if len(list) == 0 {
		fmt.Fprintln(out, t.none)
		return
	}
	head := t.head
	if t.link != nil {
		head = append(head[:len(head):len(head)], "PAGE")
	}
	fmt.Fprintln(out, strings.Join(head, "\t"))
	for _, item := range list {
		o, _ := item.(map[string]any)
		row := t.row(o)
		for i := range row {
			row[i] = clipped(row[i])
		}
		if t.link != nil {
			row = append(row, t.link(s, repo, o))
		}
		fmt.Fprintln(out, strings.Join(row, "\t"))
	}
}

// clipped is a cell of a table: not much longer than a terminal has room for.
func clipped(text string) string {
	const most = 50
	if all := []rune(text); len(all) > most {
		return string(all[:most-1]) + "…"
	}
	return text
}

func (s *Server) repositoriesText(w http.ResponseWriter, r *http.Request) {
	if v := visitorOf(r); v.user == nil {
		http.Error(w, "Sign in: curl -H \"Authorization: Bearer TOKEN\" "+s.URL, http.StatusUnauthorized)
		return
	}
	s.listText(textTable{
		"/user/repos?per_page=100", "", []string{"REPOSITORY", "VISIBILITY", "BRANCH"}, "No repositories yet: git push " + s.URL + "/OWNER/NAME main, with a token as password.",
		func(o textObject) []string {
			return []string{o.text("full_name"), o.text("visibility"), o.text("default_branch")}
		},
		func(s *Server, _ string, o textObject) string { return s.URL + "/" + o.text("full_name") },
	})(w, r)
}

// runText answers a run: what became of its jobs, what they wait for, what they tell.
func (s *Server) runText(w http.ResponseWriter, r *http.Request) {
	run := s.runOfPage(w, r)
	if run == nil {
		return
	}
	numbers, err := s.numbers(r.Context(), run)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	out := beginText(w)
	defer out.Flush()
	github := run.Plan.GitHub
	fmt.Fprintf(out, "%s  %s #%s  attempt %d\n", ended(string(run.Status), string(run.Conclusion)), plainText(run.Name), github.Property("run_number").Text(), run.Attempt)
	fmt.Fprintf(out, "%s, %s of %.7s by %s, %s ago\n", plainText(github.Property("workflow").Text()), run.Plan.Event, plainText(github.Property("sha").Text()), plainText(github.Property("actor").Text()),
		age(run.Created.Format(time.RFC3339)))
	if run.Reason != "" {
		fmt.Fprintln(out, plainText(run.Reason))
	}
	fmt.Fprintln(out)
	for _, j := range run.Jobs {
		if j.Call || j.Expanded {
			continue
		}
		took := ""
		if !j.Started.IsZero() && !j.Completed.IsZero() {
			took = j.Completed.Sub(j.Started).Round(time.Second).String()
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s/%s/actions/runs/%d/job/%d\n", ended(string(j.Status), string(j.Conclusion)), clipped(plainText(j.Name)), took, s.URL, fullName(r), run.ID, numbers[j.ID])
		if j.Reason != "" {
			fmt.Fprintf(out, "\t%s\n", plainText(j.Reason))
		}
		for _, st := range j.Steps {
			if st.Conclusion == ci.Failure {
				fmt.Fprintf(out, "\tfailed: %s\n", plainText(st.Name))
			}
		}
	}
	notes := run.Annotations
	for _, j := range run.Jobs {
		notes = append(notes[:len(notes):len(notes)], j.Annotations...)
	}
	for _, a := range notes {
		place := ""
		if a.File != "" {
			place = fmt.Sprintf("%s:%d: ", plainText(a.File), a.Line)
		}
		fmt.Fprintf(out, "\n%s: %s%s", plainText(a.Level), place, plainText(a.Message))
	}
	if len(notes) > 0 {
		fmt.Fprintln(out)
	}
}

func ended(status, conclusion string) string {
	if conclusion != "" {
		return conclusion
	}
	return status
}

// jobText answers the log of a job, without what is meant for a terminal in it.
func (s *Server) jobText(w http.ResponseWriter, r *http.Request) {
	run := s.runOfPage(w, r)
	if run == nil {
		return
	}
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil {
		http.Error(w, "There is no such page.", http.StatusNotFound)
		return
	}
	job, err := s.Store.NumberedJob(r.Context(), number)
	if err != nil || job.Run != run.ID {
		http.Error(w, "There is no such page.", http.StatusNotFound)
		return
	}
	f, err := s.Engine.Log(job.Run, job.Attempt, job.Job)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	beginText(w)
	if f == nil {
		return // nothing was written yet
	}
	defer f.Close()
	_ = stripped(w, f) // the client has gone
}

// stripped copies a text without control characters other than tabs and the ends of lines, and without terminals' sequences.
func stripped(w io.Writer, from io.Reader) error {
	in, out := bufio.NewReader(from), bufio.NewWriter(w)
	for {
		r, _, err := in.ReadRune()
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			if flushErr := out.Flush(); err == nil {
				err = flushErr
			}
			return err
		}
		switch {
		case r == 0x1b:
			skipSequence(in)
		case r == '\n' || r == '\t' || !unicode.IsControl(r) && !unicode.Is(unicode.Cf, r):
			if _, err := out.WriteRune(r); err != nil {
				return err
			}
		}
	}
}

// skipSequence reads what follows an escape and belongs to it: of a control sequence to its final byte, else one character.
func skipSequence(in *bufio.Reader) {
	next, _, err := in.ReadRune()
	if err != nil || next != '[' {
		return
	}
	for range 64 {
		r, _, err := in.ReadRune()
		if err != nil || r >= 0x40 && r <= 0x7e {
			return
		}
		if r == '\n' {
			_ = in.UnreadRune()
			return
		}
	}
}

func (s *Server) pullText(w http.ResponseWriter, r *http.Request) {
	base := "/repos/" + fullName(r)
	var pull, checks textObject
	if !s.asks(w, r, base+"/pulls/"+url.PathEscape(r.PathValue("number")), &pull) ||
		!s.asks(w, r, base+"/commits/"+url.PathEscape(pull.in("head").text("sha"))+"/check-runs?per_page=100", &checks) {
		return
	}
	out := beginText(w)
	defer out.Flush()
	what := pull.text("state")
	if pull.text("merged") == "true" {
		what = "merged"
	}
	fmt.Fprintf(out, "%s  %s #%s\n%s into %s, by %s\n\n", what, pull.text("title"), pull.text("number"), pull.in("head").text("ref"), pull.in("base").text("ref"), pull.in("user").text("login"))
	list, _ := checks["check_runs"].([]any)
	for _, item := range list {
		c, _ := item.(map[string]any)
		fmt.Fprintf(out, "%s\t%s\t%s\n", state(c), clipped(textObject(c).text("name")), textObject(c).text("details_url"))
	}
	body, _ := pull["body"].(string)
	if body != "" {
		fmt.Fprintln(out)
		out.Flush()
		_ = stripped(w, strings.NewReader(body+"\n")) // the client has gone
	}
}

// settingsText answers the names of secrets, and variables.
func (s *Server) settingsText(w http.ResponseWriter, r *http.Request) {
	var secrets, variables textObject
	base := "/repos/" + fullName(r) + "/actions/"
	if !s.asks(w, r, base+"secrets?per_page=100", &secrets) || !s.asks(w, r, base+"variables?per_page=30", &variables) {
		return
	}
	out := beginText(w)
	list, _ := secrets["secrets"].([]any)
	s.writeTable(out, textTable{head: []string{"SECRET", "UPDATED"}, none: "No secrets.", row: func(o textObject) []string {
		return []string{o.text("name"), age(o.text("updated_at"))}
	}}, "", list)
	fmt.Fprintln(w)
	list, _ = variables["variables"].([]any)
	s.writeTable(out, textTable{head: []string{"VARIABLE", "VALUE", "UPDATED"}, none: "No variables.", row: func(o textObject) []string {
		return []string{o.text("name"), o.text("value"), age(o.text("updated_at"))}
	}}, "", list)
}

// auditText answers the newest records of the audit log.
func (s *Server) auditText(w http.ResponseWriter, r *http.Request) {
	if s.admin(w, r, "read:audit_log") == nil {
		return
	}
	filter := auditFilter(r.URL.Query(), 100)
	filter.Newest = true
	found, err := s.Store.AuditLog(r.Context(), filter)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	out := beginText(w)
	defer out.Flush()
	fmt.Fprintln(out, "RECORD\tAT\tWHO\tDID\tTO")
	for _, a := range found {
		fmt.Fprintf(out, "%d\t%s\t%s\t%s\t%s\n", a.Seq, a.At.Format(time.DateTime), clipped(plainText(a.Actor)), clipped(plainText(a.Action)), clipped(plainText(a.Target)))
	}
}
