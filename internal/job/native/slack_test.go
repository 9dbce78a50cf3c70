package native

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

// webhook is a Slack that keeps what it is told.
type webhook struct {
	url  string
	got  []map[string]any
	code int
}

func newWebhook(t *testing.T) *webhook {
	w := &webhook{code: http.StatusOK}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		var message map[string]any
		if err == nil {
			err = json.Unmarshal(data, &message)
		}
		if err != nil || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("a message of %q: %v", data, err)
		}
		w.got = append(w.got, message)
		rw.WriteHeader(w.code)
		io.WriteString(rw, "no_service")
	}))
	t.Cleanup(server.Close)
	w.url = server.URL + "/services/T00/B00/secret"
	return w
}

// TestSlack sends messages as 8398a7/action-slack v3 does: the payloads are those that its client test expects.
func TestSlack(t *testing.T) {
	on(t, func(t *testing.T, j *job) {
		w := newWebhook(t)
		sha := strings.Repeat("b24f03a32e", 4)
		j.github = map[string]any{
			"repository": "8398a7/action-slack", "sha": sha, "ref": "refs/heads/master", "event_name": "push", "workflow": "PR Checks", "run_id": "1",
			"event": map[string]any{"head_commit": map[string]any{
				"id": sha, "message": "[#19] <support> a & b\nmore", "author": map[string]any{"name": "839", "email": "8398a7@gmail.com"},
			}},
		}
		j.env["SLACK_WEBHOOK_URL"] = w.url
		field := func(title, value string) map[string]any {
			return map[string]any{"title": title, "value": value, "short": true}
		}
		at := "https://github.com/8398a7/action-slack"
		repo, commit := field("repo", "<"+at+"|8398a7/action-slack>"), field("commit", "<"+at+"/commit/"+sha+"|b24f03a3>")
		message := func(text, color string, fields ...any) map[string]any {
			return map[string]any{"text": text, "username": "", "icon_emoji": "", "icon_url": "", "channel": "", "attachments": []any{
				map[string]any{"color": color, "author_name": "8398a7@action-slack", "fields": fields},
			}}
		}
		for name, test := range map[string]struct {
			with map[string]string
			want map[string]any
		}{
			"success":   {map[string]string{"status": "success"}, message(":white_check_mark: Succeeded GitHub Actions", "good", repo, commit)},
			"cancelled": {map[string]string{"status": "Cancelled", "fields": "ref"}, message(":warning: Cancelled GitHub Actions", "warning", field("ref", "refs/heads/master"))},
			"mention": {
				map[string]string{"status": "failure", "mention": "user_id, here,subteam^S1", "if_mention": "failure,success", "fields": "eventName"},
				message("<@user_id> <!here> <!subteam^S1> :no_entry: Failed GitHub Actions", "danger", field("eventName", "push")),
			},
			"no mention": {map[string]string{"status": "success", "mention": "here", "if_mention": "failure", "text": "done", "fields": "eventName"}, message("done", "good", field("eventName", "push"))},
			"fields": {
				map[string]string{"status": "success", "text": "x", "fields": "message,author,action,workflow,workflowRun,pullRequest,job", "job_name": "Build"},
				message("x", "good", field("message", "<"+at+"/commit/"+sha+"|[#19] &lt;support&gt; a &amp; b>"), field("author", "839 <8398a7@gmail.com>"),
					field("action", "<"+at+"/commit/"+sha+"/checks|action>"), field("job", "<"+at+"/actions/runs/1|Build>"),
					field("workflow", "<"+at+"/commit/"+sha+"/checks|PR Checks>"), field("workflowRun", "<"+at+"/actions/runs/1|PR Checks>"), field("pullRequest", "n/a")),
			},
			"custom": {
				map[string]string{"status": "custom", "fields": "commit", "custom_payload": "{\n  text: `${process.env.AS_COMMIT}`, attachments: [{color: '${{ x }}' === 'y' ? 'a' : 'b'}],\n}"},
				map[string]any{"text": commit["value"], "attachments": []any{map[string]any{"color": "b"}}},
			},
		} {
			w.got = nil
			_, log := j.must("8398a7/action-slack@v3", test.with)
			if len(w.got) != 1 || !reflect.DeepEqual(w.got[0], test.want) {
				t.Errorf("%s: %v\nnot %v", name, w.got, test.want)
			}
			if strings.Contains(strings.ReplaceAll(log, "::add-mask::"+w.url, ""), "secret") {
				t.Errorf("%s: the log tells the address: %s", name, log)
			}
		}
	}, "none")
}

// TestSlackStaysInside has a machine with a network of its own name this host's loopback: that is not what it gets.
func TestSlackStaysInside(t *testing.T) {
	on(t, func(t *testing.T, j *job) {
		w := newWebhook(t)
		j.env["SLACK_WEBHOOK_URL"] = w.url
		if _, _, err := j.run("8398a7/action-slack@v3", map[string]string{"status": "success", "fields": "ref"}); err == nil || len(w.got) > 0 {
			t.Errorf("this host's loopback was reached: %v, %v", w.got, err)
		}
	}, "inside", "host")
}

func TestSlackFails(t *testing.T) {
	j := newJob(t, "none")
	w := newWebhook(t)
	w.code = http.StatusNotFound
	for _, test := range []struct {
		hook, status, payload, want string
	}{
		{"", "success", "", "Specify secrets.SLACK_WEBHOOK_URL"},
		{w.url, "done", "", "You can specify success or failure or cancelled or custom"},
		{w.url, "", "", "Input required and not supplied: status"},
		{w.url, "success", "", "An HTTP protocol error occurred: statusCode = 404 no_service"},
		{w.url, "custom", "{", "custom_payload is no JavaScript"},
		{"http://127.0.0.1:1/secret", "success", "", "A request error occurred: dial tcp 127.0.0.1:1"},
		{"://secret", "success", "", "SLACK_WEBHOOK_URL is no URL of a web server"},
	} {
		j.env["SLACK_WEBHOOK_URL"] = test.hook
		_, _, err := j.run("8398a7/action-slack@v3", map[string]string{"status": test.status, "custom_payload": test.payload, "fields": "ref"})
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret}") || strings.Contains(err.Error(), "/secret") {
			t.Errorf("%s %s: %v, not %s", test.hook, test.status, err, test.want)
		}
	}
}
