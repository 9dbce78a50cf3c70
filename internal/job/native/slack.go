package native

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// slack is 8398a7/action-slack (src/client.ts, src/fields.ts). What the original asks GitHub for is taken from git and
// from the job itself.
type slack struct{}

func (slack) Main(ctx context.Context, s *Step) error {
	status, err := s.required("status")
	if err != nil {
		return err
	}
	m := &slackMessage{s: s, status: strings.ToLower(status)}
	hook := s.variable("SLACK_WEBHOOK_URL")
	if hook == "" {
		return errors.New("Specify secrets.SLACK_WEBHOOK_URL")
	}
	s.mask(hook)
	var payload []byte
	switch m.status {
	case "success", "failure", "cancelled":
		payload, err = m.prepare(ctx)
	case "custom":
		payload, err = m.custom(ctx)
	default:
		err = errors.New("You can specify success or failure or cancelled or custom")
	}
	if err != nil {
		return err
	}
	return s.postSlack(ctx, hook, payload)
}

// slackMessage is one message in the making.
type slackMessage struct {
	s      *Step
	status string
	env    []string // AS_ variables of the fields, for custom payloads
}

type slackField struct {
	Title string `json:"title"`
	Value string `json:"value"`
	Short bool   `json:"short"`
}

var slackColors = map[string]string{"success": "good", "cancelled": "warning", "failure": "danger"}

// prepare makes the message of a status.
func (m *slackMessage) prepare(ctx context.Context) ([]byte, error) {
	fields, err := m.fields(ctx)
	if err != nil {
		return nil, err
	}
	in := m.s.input
	text := m.mention() + cmp.Or(in("text"), in(m.status+"_message"))
	return json.Marshal(map[string]any{
		"text": text, "username": in("username"), "icon_emoji": in("icon_emoji"), "icon_url": in("icon_url"), "channel": in("channel"),
		"attachments": []any{map[string]any{"color": slackColors[m.status], "author_name": in("author_name"), "fields": fields}},
	})
}

// mention names those who are to be told of this status.
func (m *slackMessage) mention() string {
	when := strings.ToLower(m.s.input("if_mention"))
	who := strings.ReplaceAll(m.s.input("mention"), " ", "")
	if who == "" || when != "always" && !strings.Contains(when, m.status) {
		return ""
	}
	var out strings.Builder
	for id := range strings.SplitSeq(who, ",") {
		sign := "@"
		if id == "here" || id == "channel" || strings.Contains(id, "subteam^") {
			sign = "!"
		}
		out.WriteString("<" + sign + id + "> ")
	}
	return out.String()
}

// custom evaluates the payload, which is an expression of JavaScript that may read the fields from process.env.
func (m *slackMessage) custom(ctx context.Context) ([]byte, error) {
	if _, err := m.fields(ctx); err != nil {
		return nil, err
	}
	const program = "var template; eval('template = ' + process.env.PENSTOCK_PAYLOAD); process.stdout.write(JSON.stringify(template))"
	out, err := m.s.answerEnv(ctx, m.s.workspace(), append(m.env, "PENSTOCK_PAYLOAD="+m.s.input("custom_payload")), "node", "-e", program)
	if err != nil {
		return nil, fmt.Errorf("custom_payload is no JavaScript that Node.js takes: %w", err)
	}
	return []byte(out), nil
}

// fields are those that the input chooses, in the original's order.
func (m *slackMessage) fields(ctx context.Context) ([]slackField, error) {
	chosen := strings.Split(strings.ReplaceAll(cmp.Or(m.s.input("fields"), "repo,commit"), " ", ""), ",")
	fields := []slackField{}
	for _, f := range []struct {
		name, variable string
		value          func(context.Context) (string, error)
	}{
		{"repo", "REPO", m.repo}, {"message", "MESSAGE", m.message}, {"commit", "COMMIT", m.commit}, {"author", "AUTHOR", m.author},
		{"action", "ACTION", m.action}, {"job", "JOB", m.job}, {"took", "TOOK", m.took}, {"eventName", "EVENT_NAME", m.github("event_name")},
		{"ref", "REF", m.github("ref")}, {"workflow", "WORKFLOW", m.workflow}, {"workflowRun", "WORKFLOW_RUN", m.run},
		{"pullRequest", "PULL_REQUEST", m.pull},
	} {
		if !slices.Contains(chosen, f.name) && !slices.Contains(chosen, "all") {
			continue
		}
		value, err := f.value(ctx)
		if err != nil {
			return nil, fmt.Errorf("the field %s: %w", f.name, err)
		}
		fields = append(fields, slackField{f.name, value, true})
		m.env = append(m.env, "AS_"+f.variable+"="+value)
	}
	return fields, nil
}

// link is a page of the repository, in Slack's form.
func (m *slackMessage) link(text, format string, args ...any) (string, error) {
	base := cmp.Or(m.s.input("github_base_url"), "https://github.com")
	return fmt.Sprintf("<%s/%s%s|%s>", base, m.s.github("repository"), fmt.Sprintf(format, args...), text), nil
}

func (m *slackMessage) github(name string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return m.s.github(name), nil }
}

// head is the commit whose checks the run is one of.
func (m *slackMessage) head() string {
	return cmp.Or(m.s.github("event", "pull_request", "head", "sha"), m.s.github("sha"))
}

// slackText is plain text in Slack's markup.
var slackText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func (m *slackMessage) repo(context.Context) (string, error) {
	return m.link(m.s.github("repository"), "")
}

func (m *slackMessage) commit(context.Context) (string, error) {
	sha := m.s.github("sha")
	return m.link(sha[:min(8, len(sha))], "/commit/%s", sha)
}

func (m *slackMessage) message(ctx context.Context) (string, error) {
	subject, err := m.show(ctx, "%s")
	if err != nil {
		return "", err
	}
	return m.link(slackText.Replace(subject), "/commit/%s", m.s.github("sha"))
}

func (m *slackMessage) author(ctx context.Context) (string, error) { return m.show(ctx, "%an <%ae>") }

// show asks git about the commit, and takes it from the event where the workspace has no repository.
func (m *slackMessage) show(ctx context.Context, format string) (string, error) {
	sha := m.s.github("sha")
	out, err := m.s.answer(ctx, m.s.workspace(), "git", "-c", "safe.directory=*", "show", "--no-patch", "--format="+format, sha)
	if err == nil {
		return strings.TrimSpace(out), nil
	}
	if m.s.github("event", "head_commit", "id") != sha {
		return "", fmt.Errorf("commit %s is not in the workspace: use actions/checkout before", sha)
	}
	if format == "%s" {
		subject, _, _ := strings.Cut(m.s.github("event", "head_commit", "message"), "\n")
		return subject, nil
	}
	return m.s.github("event", "head_commit", "author", "name") + " <" + m.s.github("event", "head_commit", "author", "email") + ">", nil
}

func (m *slackMessage) action(context.Context) (string, error) {
	return m.link("action", "/commit/%s/checks", m.head())
}

func (m *slackMessage) workflow(context.Context) (string, error) {
	return m.link(m.s.github("workflow"), "/commit/%s/checks", m.head())
}

func (m *slackMessage) run(context.Context) (string, error) {
	return m.link(m.s.github("workflow"), "/actions/runs/%s", m.s.github("run_id"))
}

func (m *slackMessage) job(context.Context) (string, error) {
	return m.link(cmp.Or(m.s.input("job_name"), m.s.JobName), "/actions/runs/%s", m.s.github("run_id"))
}

func (m *slackMessage) took(context.Context) (string, error) {
	d := time.Since(m.s.Began)
	var out string
	if h := int(d.Hours()); h > 0 {
		out += strconv.Itoa(h) + " hour "
	}
	if n := int(d.Minutes()) % 60; n > 0 {
		out += strconv.Itoa(n) + " min "
	}
	if n := int(d.Seconds()) % 60; n > 0 {
		out += strconv.Itoa(n) + " sec"
	}
	return out, nil
}

func (m *slackMessage) pull(context.Context) (string, error) {
	if !strings.HasPrefix(m.s.github("event_name"), "pull_request") {
		return "n/a", nil
	}
	pr := func(name string) string { return m.s.github("event", "pull_request", name) }
	return fmt.Sprintf("<%s|%s #%s>", pr("html_url"), slackText.Replace(pr("title")), pr("number")), nil
}

const (
	slackTime   = 30 * time.Second
	slackAnswer = 4 << 10 // of the answer, bytes
)

// postSlack sends a message. The address is a secret: no error names it.
func (s *Step) postSlack(ctx context.Context, hook string, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, slackTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hook, bytes.NewReader(payload))
	if err != nil || r.URL.Host == "" {
		return errors.New("SLACK_WEBHOOK_URL is no URL of a web server")
	}
	r.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{DialContext: s.dial, Proxy: func(*http.Request) (*url.URL, error) {
		proxy := cmp.Or(s.variable("https_proxy"), s.variable("HTTPS_PROXY"))
		if proxy == "" {
			return nil, nil
		}
		return url.Parse(proxy)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) {
			err = of.Err // without the address
		}
		return fmt.Errorf("A request error occurred: %w", err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, slackAnswer))
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("An HTTP protocol error occurred: statusCode = %d %s", answer.StatusCode, bytes.TrimSpace(text))
	}
	return nil
}

// dial connects as a command of the step would: the machine's own loopback is not this host's.
func (s *Step) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if s.direct() || !slices.ContainsFunc(addresses, isOwn) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(addresses[0].String(), port))
	}
	d, ok := s.Sandbox.(sandbox.Dialer)
	if !ok {
		return nil, fmt.Errorf("%s is this machine's own address, which can not be reached from here", host)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	return d.Dial(ctx, n)
}

// isOwn says whether an address means the machine itself, or what only it may reach.
func isOwn(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast()
}
