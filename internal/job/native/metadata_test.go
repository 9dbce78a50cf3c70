package native

import (
	"bufio"
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// metadataCase is a use of docker/metadata-action with what the original made of it.
type metadataCase struct {
	Name    string
	Event   string `json:"event_name"`
	Ref     string
	SHA     string
	Payload map[string]any
	Inputs  map[string]string
	Env     map[string]string
	Want    map[string]json.RawMessage
}

// TestDockerMetadata holds the native docker/metadata-action to the original (v6, its dist): the outputs were recorded from
// it. Times of creation are written as NOW.
func TestDockerMetadata(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "metadata.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	j := newJob(t, "none")
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c metadataCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Name, func(t *testing.T) { holdMetadata(t, j, &c) })
	}
}

var recordedTime = regexp.MustCompile(`created(=|":"|": ")[0-9TZ:.-]{24}`)

func holdMetadata(t *testing.T, j *job, c *metadataCase) {
	c.Payload["repository"] = map[string]any{
		"name": "hello", "full_name": "octo/hello", "description": "A friendly app", "html_url": "https://github.com/octo/hello",
		"default_branch": "main", "license": map[string]any{"spdx_id": "MIT"},
	}
	if j.env = c.Env; j.env == nil {
		j.env = map[string]string{}
	}
	j.t = t
	j.github = map[string]any{"event_name": c.Event, "ref": c.Ref, "sha": c.SHA, "event": c.Payload}
	s, said, err := j.run("docker/metadata-action@v6", c.Inputs)
	got := maps.Clone(s.Outputs)
	if got == nil {
		got = map[string]string{}
	}
	if p := got["bake-file"]; p != "" {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		got["bake-file"] = string(text)
	}
	if err != nil {
		got = map[string]string{"error": err.Error()}
	}
	for name, raw := range c.Want {
		var want string
		if name == "warnings" {
			var list []string
			if err := json.Unmarshal(raw, &list); err != nil {
				t.Fatal(err)
			}
			var warned []string
			for line := range strings.Lines(said) {
				if w, ok := strings.CutPrefix(strings.TrimSpace(line), "::warning::"); ok {
					warned = append(warned, w)
				}
			}
			if !slices.Equal(warned, list) {
				t.Errorf("warnings %q, not %q", warned, list)
			}
			continue
		}
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if have := recordedTime.ReplaceAllString(got[name], "created${1}NOW"); have != want {
			t.Errorf("%s is %q, not %q", name, have, want)
		}
	}
}

func TestMoment(t *testing.T) {
	at := time.Date(2026, 3, 4, 15, 6, 7, 89_000_000, time.FixedZone("X", 2*3600))
	for format, want := range map[string]string{
		"YYYYMMDD-HHmmss": "20260304-150607", "[year] YYYY": "year 2026", `\YYY`: "Y26", "h:mm A a": "3:06 PM pm", "SSS X x": "089 1772629567 1772629567089",
		"Do DDDo Mo": "4th 63rd 3rd", "ZZ Z": "+0200 +02:00", "GGGG-[W]WW-E": "2026-W10-3", "ü/_.": "ü/_.",
	} {
		if got := moment(at, format); got != want {
			t.Errorf("%s: %q, not %q", format, got, want)
		}
	}
}
