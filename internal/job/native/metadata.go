package native

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dockerMetadata is docker/metadata-action (src/meta.ts): tags and labels of an image by the event.
type dockerMetadata struct{}

func (dockerMetadata) Main(ctx context.Context, s *Step) error {
	m, err := s.readMetadata(ctx)
	if err != nil {
		return err
	}
	if err := m.makeVersion(); err != nil {
		return err
	}
	return m.tell(ctx)
}

// metadata is what the action works on.
type metadata struct {
	s                *Step
	ref, sha, event  string
	now, committed   time.Time
	shortSHA         int
	images           []string
	tags             []metadataTag
	flavor           metadataFlavor
	labels           []string // custom ones
	annotations      []string
	levels           []string // of annotations
	version          string   // the first tag
	partial          []string // the others
	latest, latestOK bool
}

// metadataTag is one line of the input tags.
type metadataTag struct {
	kind  string
	attrs map[string]string
	order []string // names of attrs as they came
}

func (t *metadataTag) set(name, value string) {
	if _, ok := t.attrs[name]; !ok {
		t.order = append(t.order, name)
	}
	t.attrs[name] = value
}

func (t *metadataTag) has(name string) bool {
	_, ok := t.attrs[name]
	return ok
}

func (t *metadataTag) String() string {
	out := "type=" + t.kind
	for _, name := range t.order {
		out += "," + name + "=" + t.attrs[name]
	}
	return out
}

// metadataFlavor is the input flavor.
type metadataFlavor struct {
	latest, prefix, suffix     string
	prefixLatest, suffixLatest bool
}

// readMetadata reads the inputs and the event.
func (s *Step) readMetadata(ctx context.Context) (*metadata, error) {
	m := &metadata{
		s: s, ref: s.github("ref"), sha: s.github("sha"), event: s.github("event_name"), now: time.Now().UTC(), shortSHA: 7,
		labels: s.listInput("labels"), annotations: s.listInput("annotations"), levels: strings.Split(or(s.variable("DOCKER_METADATA_ANNOTATIONS_LEVELS"), "manifest"), ","),
	}
	switch source := or(s.input("context"), "workflow"); source {
	case "workflow":
		m.fromWorkflow(ctx)
	case "git":
		if err := m.fromGit(ctx); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("Invalid context source: %s", source)
	}
	if text := s.variable("DOCKER_METADATA_SHORT_SHA_LENGTH"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("DOCKER_METADATA_SHORT_SHA_LENGTH is not a valid number: %s", text)
		}
		m.shortSHA = n
	}
	var err error
	if m.images, err = readImages(s.listInput("images")); err != nil {
		return nil, err
	}
	if m.tags, err = readTags(s.listInput("tags")); err != nil {
		return nil, err
	}
	m.flavor, err = readFlavor(s.listInput("flavor"))
	return m, err
}

// fromWorkflow takes ref and commit from the event.
func (m *metadata) fromWorkflow(ctx context.Context) {
	if strings.Contains(m.event, "pull_request_target") {
		m.ref = "refs/pull/" + m.s.github("event", "number") + "/merge"
	}
	if strings.Contains(strings.ToLower(m.s.variable("DOCKER_METADATA_PR_HEAD_SHA")), "true") && strings.Contains(m.event, "pull_request") {
		m.sha = or(m.s.github("event", "pull_request", "head", "sha"), m.sha)
	}
	for _, c := range append(m.s.GitHub.Property("event").Property("commits").Items(), m.s.GitHub.Property("event").Property("head_commit")) {
		if t, err := time.Parse(time.RFC3339, c.Property("timestamp").Text()); err == nil && c.Property("id").Text() == m.sha {
			m.committed = t
			return
		}
	}
	m.committed = m.commitDate(ctx)
}

// commitDate asks git, as the original asks GitHub, and takes now where the commit is not there.
func (m *metadata) commitDate(ctx context.Context) time.Time {
	out, err := m.s.answer(ctx, m.s.workspace(), "git", "-c", "safe.directory=*", "show", "--no-patch", "--format=%cI", m.sha)
	if t, parseErr := time.Parse(time.RFC3339, strings.TrimSpace(out)); err == nil && parseErr == nil {
		return t
	}
	return m.now
}

// fromGit takes ref and commit from the repository in the workspace.
func (m *metadata) fromGit(ctx context.Context) error {
	git := func(args ...string) (string, error) {
		out, err := m.s.answer(ctx, m.s.workspace(), append([]string{"git", "-c", "safe.directory=*"}, args...)...)
		return strings.TrimSpace(out), err
	}
	var err error
	if m.sha, err = git("rev-parse", "HEAD"); err != nil {
		return fmt.Errorf("no commit in %s: %w", m.s.workspace(), err)
	}
	if m.ref, err = git("symbolic-ref", "--quiet", "HEAD"); err != nil {
		tag, err := git("describe", "--exact-match", "--tags", "HEAD")
		if err != nil {
			return errors.New("Cannot infer ref from detached HEAD")
		}
		m.ref = "refs/tags/" + tag
	}
	m.committed = m.commitDate(ctx)
	return nil
}

// makeVersion goes through the tags, the most important first.
func (m *metadata) makeVersion() error {
	for i := range m.tags {
		t := &m.tags[i]
		enabled, err := m.expand(t.attrs["enable"])
		if err != nil {
			return err
		}
		if enabled != "true" && enabled != "false" {
			return fmt.Errorf("Invalid value for enable attribute: %s", enabled)
		}
		if enabled == "false" {
			continue
		}
		if err := metadataKinds[t.kind](m, t); err != nil {
			return err
		}
	}
	var unique []string
	for _, p := range m.partial {
		if !slices.Contains(unique, p) {
			unique = append(unique, p)
		}
	}
	m.partial = unique
	return nil
}

var notInTag = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)

// add adds a tag with prefix and suffix; latest is what flavor.latest=auto means for it.
func (m *metadata) add(t *metadataTag, value string, latest bool) error {
	for _, end := range []string{"prefix", "suffix"} {
		text, has := t.attrs[end]
		if !has {
			text = map[string]string{"prefix": m.flavor.prefix, "suffix": m.flavor.suffix}[end]
		}
		text, err := m.expand(text)
		if err != nil {
			return err
		}
		if end == "prefix" {
			value = text + value
		} else {
			value += text
		}
	}
	if value == "" {
		return nil
	}
	value = notInTag.ReplaceAllString(value, "-")
	switch {
	case m.version == "":
		m.version = value
	case value != m.version:
		m.partial = append(m.partial, value)
	}
	if !m.latestOK {
		m.latestOK = true
		if m.latest = latest; m.flavor.latest != "auto" {
			m.latest = m.flavor.latest == "true"
		}
	}
	return nil
}

// names are the tags without their image.
func (m *metadata) names() []string {
	if m.version == "" {
		return nil
	}
	names := append([]string{m.version}, m.partial...)
	if m.latest {
		latest := "latest"
		if m.flavor.prefixLatest {
			latest = m.flavor.prefix + latest
		}
		if m.flavor.suffixLatest {
			latest += m.flavor.suffix
		}
		names = append(names, notInTag.ReplaceAllString(latest, "-"))
	}
	return names
}

// fullTags are the tags of each image.
func (m *metadata) fullTags() []string {
	if len(m.images) == 0 {
		return m.names()
	}
	var out []string
	for _, image := range m.images {
		for _, name := range m.names() {
			out = append(out, image+":"+name)
		}
	}
	return out
}

// describe gives the labels or annotations: those of the OCI image specification, and custom ones over them.
func (m *metadata) describe(custom []string) ([]labelled, error) {
	repo := func(names ...string) string { return m.s.github(append([]string{"event", "repository"}, names...)...) }
	lines := []string{
		"title=" + repo("name"), "description=" + repo("description"), "url=" + repo("html_url"), "source=" + repo("html_url"), "version=" + m.version,
		"created=" + m.now.Format("2006-01-02T15:04:05.000Z"), "revision=" + m.sha, "licenses=" + repo("license", "spdx_id"),
	}
	for i := range lines {
		lines[i] = "org.opencontainers.image." + lines[i]
	}
	for _, c := range custom {
		text, err := m.expand(c)
		if err != nil {
			return nil, err
		}
		lines = append(lines, text)
	}
	var out []labelled
	for _, line := range lines {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		if i := slices.IndexFunc(out, func(l labelled) bool { return l.key == key }); i >= 0 {
			out[i].value = value
		} else {
			out = append(out, labelled{key, value})
		}
	}
	slices.SortStableFunc(out, func(a, b labelled) int { return strings.Compare(sortKey(a.key), sortKey(b.key)) })
	return out, nil
}

type labelled struct{ key, value string }

func (l labelled) String() string { return l.key + "=" + l.value }

// sortKey orders as JavaScript's localeCompare: punctuation, digits, letters without case, and small letters first.
func sortKey(s string) string {
	const punctuation = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		if i := strings.IndexRune(punctuation, r); i >= 0 {
			b.WriteByte(byte(i + 1))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String() + "\x00" + strings.Map(swapCase, s)
}

func swapCase(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z':
		return r - 'a' + 'A'
	case r >= 'A' && r <= 'Z':
		return r - 'A' + 'a'
	}
	return r
}

// ordered is a JSON object whose members stay in their order, as JavaScript keeps them.
type ordered []member

type member struct {
	name  string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o ordered) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, v := range []any{m.name, m.value} {
			if j > 0 {
				b.WriteByte(':')
			}
			text, err := plainJSON(v, "")
			if err != nil {
				return nil, err
			}
			b.WriteString(text)
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// plainJSON writes as JSON.stringify does: HTML's characters as they are.
func plainJSON(v any, indent string) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

func labelObject(list []labelled) ordered {
	out := ordered{}
	for _, l := range list {
		out = append(out, member{l.key, l.value})
	}
	return out
}

// tell writes the outputs, and as variables too.
func (m *metadata) tell(ctx context.Context) error {
	s := m.s
	labels, err := m.describe(m.labels)
	if err != nil {
		return err
	}
	annotated, err := m.describe(m.annotations)
	if err != nil {
		return err
	}
	annotations := []string{}
	for _, level := range m.levels {
		for _, a := range annotated {
			annotations = append(annotations, level+":"+a.String())
		}
	}
	tags, names := m.fullTags(), m.names()
	if m.version == "" {
		s.warning("No Docker image version has been generated. Check tags input.")
	}
	if len(tags) == 0 {
		s.warning("No Docker tag has been generated. Check tags input.")
	}
	var labelLines []string
	for _, l := range labels {
		labelLines = append(labelLines, l.String())
	}
	whole, err := plainJSON(ordered{
		{"tags", notNil(tags)}, {"tag-names", notNil(names)}, {"labels", labelObject(labels)}, {"annotations", annotations},
	}, "")
	if err != nil {
		return err
	}
	for _, part := range []struct{ title, text string }{
		{"Docker image version", m.version}, {"Docker tags", strings.Join(tags, "\n")}, {"Docker labels", strings.Join(labelLines, "\n")},
		{"Annotations", strings.Join(annotations, "\n")},
	} {
		_ = s.group(part.title, func() error { s.info("%s", part.text); return nil })
	}
	m.output("version", m.version)
	m.output("tags", strings.Join(tags, separator(s, "sep-tags")))
	m.output("tag-names", strings.Join(names, separator(s, "sep-tags")))
	m.output("labels", strings.Join(labelLines, separator(s, "sep-labels")))
	m.output("annotations", strings.Join(annotations, separator(s, "sep-annotations")))
	m.output("json", whole)
	return m.writeBake(ctx, tags, labels, annotations)
}

func notNil(list []string) []string { return append([]string{}, list...) }

// separator is an input whose blanks count.
func separator(s *Step, name string) string { return or(s.Inputs[name], "\n") }

var notInVariable = regexp.MustCompile(`\W`)

func (m *metadata) output(name, value string) {
	m.s.output(name, value)
	if env := m.s.variable("DOCKER_METADATA_SET_OUTPUT_ENV"); env == "" || strings.EqualFold(env, "true") || env == "1" {
		m.s.export("DOCKER_METADATA_OUTPUT_"+strings.ToUpper(notInVariable.ReplaceAllString(name, "_")), value)
	}
}

// writeBake writes the definition files for docker buildx bake.
func (m *metadata) writeBake(ctx context.Context, tags []string, labels []labelled, annotations []string) error {
	dir := path.Join(m.s.Sandbox.Info().Temp, "docker-metadata")
	args := ordered{{"DOCKER_META_IMAGES", strings.Join(m.images, ",")}, {"DOCKER_META_VERSION", m.version}}
	var files []file
	for _, bake := range []struct {
		output, name string
		target       ordered
	}{
		{"bake-file-tags", "-tags", ordered{{"tags", notNil(tags)}, {"args", args}}},
		{"bake-file-labels", "-labels", ordered{{"labels", labelObject(labels)}}},
		{"bake-file-annotations", "-annotations", ordered{{"annotations", annotations}}},
		{"bake-file", "", ordered{{"tags", notNil(tags)}, {"labels", labelObject(labels)}, {"args", args}}},
	} {
		target := or(m.s.input("bake-target"), "docker-metadata-action")
		text, err := plainJSON(ordered{{"target", ordered{{target, bake.target}}}}, "  ")
		if err != nil {
			return err
		}
		name := "docker-metadata-action-bake" + bake.name + ".json"
		files = append(files, file{name: name, data: text})
		m.output(bake.output, path.Join(dir, name))
	}
	return m.s.put(ctx, dir, files...)
}
