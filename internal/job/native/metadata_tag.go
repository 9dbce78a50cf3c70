package native

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
	"github.com/mailgun/raymond/v2"
)

// metadataKinds carry out the kinds of tags.
var metadataKinds = map[string]func(*metadata, *metadataTag) error{
	"schedule": (*metadata).scheduleTag, "semver": (*metadata).semverTag, "pep440": (*metadata).pep440Tag, "match": (*metadata).matchTag,
	"edge": (*metadata).edgeTag, "ref": (*metadata).refTag, "raw": (*metadata).rawTag, "sha": (*metadata).shaTag,
}

func (m *metadata) scheduleTag(t *metadataTag) error {
	if !strings.Contains(m.event, "schedule") {
		return nil
	}
	value, err := render(t.attrs["pattern"], map[string]any{"date": dateIn(m.now), "commit_date": dateIn(m.committed)})
	if err != nil {
		return err
	}
	return m.add(t, value, false)
}

func (m *metadata) edgeTag(t *metadataTag) error {
	branch, ok := strings.CutPrefix(m.ref, "refs/heads/")
	if want := or(t.attrs["branch"], m.s.github("event", "repository", "default_branch")); !ok || branch != want {
		return nil
	}
	return m.add(t, "edge", false)
}

func (m *metadata) refTag(t *metadataTag) error {
	prefix := map[string]string{"branch": "refs/heads/", "tag": "refs/tags/", "pr": "refs/pull/"}[t.attrs["event"]]
	name, ok := strings.CutPrefix(m.ref, prefix)
	if !ok {
		return nil
	}
	if prefix == "refs/pull/" {
		name = strings.TrimSuffix(name, "/merge")
	}
	return m.add(t, name, prefix == "refs/tags/")
}

func (m *metadata) rawTag(t *metadataTag) error {
	value, err := m.expand(t.attrs["value"])
	if err != nil {
		return err
	}
	return m.add(t, value, false)
}

func (m *metadata) shaTag(t *metadataTag) error {
	if m.sha == "" {
		return nil
	}
	if t.attrs["format"] == "short" {
		return m.add(t, m.short(), false)
	}
	return m.add(t, m.sha, false)
}

func (m *metadata) short() string { return m.sha[:min(m.shortSHA, len(m.sha))] }

// subject is what a tag of a version is made from: its value, else the git tag. ok is false if there is neither.
func (m *metadata) subject(t *metadataTag) (value string, ok bool, err error) {
	tag, isTag := strings.CutPrefix(m.ref, "refs/tags/")
	if t.attrs["value"] == "" {
		return tag, isTag, nil
	}
	value, err = m.expand(t.attrs["value"])
	return value, err == nil, err
}

// versionSubject is subject through the attribute match, with dashes for slashes.
func (m *metadata) versionSubject(t *metadataTag) (value string, ok bool, err error) {
	value, ok, err = m.subject(t)
	if !ok || err != nil {
		return value, ok, err
	}
	if pattern := t.attrs["match"]; pattern != "" {
		groups, err := matchJS(pattern, "", value)
		switch {
		case err != nil:
			return "", false, err
		case groups == nil:
			m.s.warning("%s does not match %s.", pattern, value)
		case len(groups) > 1:
			value = groups[1].text
		default:
			return "", false, fmt.Errorf("%s has no group to take a version from", pattern)
		}
	}
	return strings.ReplaceAll(value, "/", "-"), true, nil
}

// semanticVersion is what node-semver takes as valid (its FULL pattern, strict).
var semanticVersion = regexp.MustCompile(`^v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][a-zA-Z0-9-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][a-zA-Z0-9-]*))*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?$`)

// onlyRaw is a pattern that is the raw version and nothing else.
var onlyRaw = regexp.MustCompile(`^\{\{\{?\s*raw\s*\}?\}\}$`)

func (m *metadata) semverTag(t *metadataTag) error {
	value, ok, err := m.versionSubject(t)
	if !ok || err != nil {
		return err
	}
	v := semanticVersion.FindStringSubmatch(strings.TrimSpace(value))
	if v == nil {
		m.s.warning("%s is not a valid semver. More info: https://semver.org/", value)
		return nil
	}
	version := strings.Join(v[1:4], ".")
	if v[4] != "" {
		version += "-" + v[4]
	}
	pattern := t.attrs["pattern"]
	if v[4] != "" && !onlyRaw.MatchString(pattern) {
		pattern = "{{version}}"
	}
	text, err := render(pattern, map[string]any{
		"raw": value, "version": version, "major": v[1], "minor": v[2], "patch": v[3],
		"prerelease": strings.ReplaceAll(v[4], ".", ","), "build": strings.ReplaceAll(v[5], ".", ","),
	})
	if err != nil {
		return err
	}
	return m.add(t, text, v[4] == "")
}

func (m *metadata) pep440Tag(t *metadataTag) error {
	value, ok, err := m.versionSubject(t)
	if !ok || err != nil {
		return err
	}
	v, ok := parsePEP440(value)
	if !ok {
		m.s.warning("%s does not conform to PEP 440. More info: https://www.python.org/dev/peps/pep-0440", value)
		return nil
	}
	if v.final {
		text, err := render(t.attrs["pattern"], map[string]any{
			"raw": value, "version": v.clean, "major": v.part(0), "minor": v.part(1), "patch": v.part(2),
		})
		if err != nil {
			return err
		}
		return m.add(t, text, true)
	}
	if onlyRaw.MatchString(t.attrs["pattern"]) {
		return m.add(t, value, false)
	}
	return m.add(t, v.clean, false)
}

// pep440 is a version of Python's, as PEP 440 normalises it.
type pep440 struct {
	clean   string
	release []string
	final   bool // no pre-, post- or development release
}

// part is a number of the release, 0 where it is left out.
func (v pep440) part(i int) string {
	if i < len(v.release) {
		return v.release[i]
	}
	return "0"
}

// pep440Pattern is that of PEP 440's appendix B.
var pep440Pattern = regexp.MustCompile(`(?i)^\s*v?(?:(\d+)!)?(\d+(?:\.\d+)*)(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?(\d*))?` +
	`((?:-(\d+))|(?:[-_.]?(?:post|rev|r)[-_.]?(\d*)))?([-_.]?dev[-_.]?(\d*))?(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?\s*$`)

var preReleases = map[string]string{"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc", "a": "a", "b": "b", "rc": "rc"}

func parsePEP440(s string) (pep440, bool) {
	g := pep440Pattern.FindStringSubmatch(s)
	if g == nil {
		return pep440{}, false
	}
	number := func(s string) string {
		if s = strings.TrimLeft(s, "0"); s == "" {
			return "0"
		}
		return s
	}
	var v pep440
	for _, p := range strings.Split(g[2], ".") {
		v.release = append(v.release, number(p))
	}
	v.clean = strings.Join(v.release, ".")
	if e := number(g[1]); e != "0" {
		v.clean = e + "!" + v.clean
	}
	if g[3] != "" {
		v.clean += preReleases[strings.ToLower(g[3])] + number(g[4])
	}
	if g[5] != "" {
		v.clean += ".post" + number(g[6]+g[7])
	}
	if g[8] != "" {
		v.clean += ".dev" + number(g[9])
	}
	v.final = g[3] == "" && g[5] == "" && g[8] == ""
	if g[10] != "" {
		v.clean += "+" + strings.ToLower(g[10])
	}
	return v, true
}

// jsLiteral is a regular expression as JavaScript writes it.
var jsLiteral = regexp.MustCompile(`^/(.+)/(.*)$`)

func (m *metadata) matchTag(t *metadataTag) error {
	value, ok, err := m.subject(t)
	if !ok || err != nil {
		return err
	}
	pattern, flags := t.attrs["pattern"], ""
	if g := jsLiteral.FindStringSubmatch(pattern); g != nil {
		pattern, flags = g[1], g[2]
	}
	groups, err := matchJS(pattern, flags, value)
	if err != nil {
		return err
	}
	if groups == nil {
		m.s.warning("%s does not match %s.", t.attrs["pattern"], value)
		return nil
	}
	n, err := strconv.Atoi(t.attrs["group"])
	if err != nil || n < 0 || n >= len(groups) || !groups[n].there {
		m.s.warning("Group %s does not exist for %s pattern.", t.attrs["group"], t.attrs["pattern"])
		return nil
	}
	return m.add(t, groups[n].text, true)
}

// jsGroup is a group of a match; one that took no part in it is not there.
type jsGroup struct {
	text  string
	there bool
}

// matchTime bounds a match: patterns are a workflow's own.
const matchTime = time.Second

// matchJS matches as JavaScript's String.match does; no match gives no groups.
func matchJS(pattern, flags, text string) ([]jsGroup, error) {
	options := regexp2.RegexOptions(regexp2.ECMAScript)
	for _, f := range flags {
		switch f {
		case 'i':
			options |= regexp2.IgnoreCase
		case 'm':
			options |= regexp2.Multiline
		case 's':
			options |= regexp2.Singleline
		}
	}
	re, err := regexp2.Compile(pattern, options)
	if err != nil {
		return nil, fmt.Errorf("Invalid regular expression: /%s/: %w", pattern, err)
	}
	re.MatchTimeout = matchTime
	found, err := re.FindStringMatch(text)
	if err != nil {
		return nil, fmt.Errorf("match %s: %w", pattern, err)
	}
	if found == nil {
		return nil, nil
	}
	var groups []jsGroup
	for _, g := range found.Groups() {
		groups = append(groups, jsGroup{g.String(), len(g.Captures) > 0})
	}
	return groups, nil
}

// expand writes out what stands in braces anywhere: of the branch, the tag, the commit, the time.
func (m *metadata) expand(text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	after := func(prefix string) string {
		if name, ok := strings.CutPrefix(m.ref, prefix); ok {
			return name
		}
		return ""
	}
	isDefault := m.onDefaultBranch()
	return render(text, map[string]any{
		"branch": after("refs/heads/"), "tag": after("refs/tags/"), "sha": m.short(), "base_ref": m.baseRef(),
		"is_default_branch": strconv.FormatBool(isDefault), "is_not_default_branch": strconv.FormatBool(!isDefault),
		"date": dateIn(m.now), "commit_date": dateIn(m.committed),
	})
}

func (m *metadata) baseRef() string {
	switch {
	case strings.HasPrefix(m.ref, "refs/tags/"):
		return strings.TrimPrefix(m.s.github("event", "base_ref"), "refs/heads/")
	case strings.HasPrefix(m.ref, "refs/pull/"):
		return m.s.github("event", "pull_request", "base", "ref")
	}
	return ""
}

// onDefaultBranch says whether the event is one of the default branch, as some events always are.
func (m *metadata) onDefaultBranch() bool {
	branch := strings.TrimPrefix(m.ref, "refs/heads/")
	if branch == "" {
		return false
	}
	if branch == m.s.github("event", "repository", "default_branch") {
		return true
	}
	for _, e := range []string{"create", "discussion", "issues", "schedule"} {
		if strings.Contains(m.event, e) {
			return true
		}
	}
	return false
}

// render expands a Handlebars template.
func render(template string, values map[string]any) (string, error) {
	out, err := raymond.Render(template, values)
	if err != nil {
		return "", fmt.Errorf("%s: %w", template, err)
	}
	return out, nil
}

// dateIn is the helper that writes a time in Moment's words, in the zone of its attribute tz.
func dateIn(t time.Time) func(format string, o *raymond.Options) string {
	return func(format string, o *raymond.Options) string {
		zone := time.UTC
		for name, value := range o.Hash() {
			if name != "tz" {
				panic(fmt.Errorf("Unknown %s attribute", name)) // the engine makes an error of it
			}
			if z, err := time.LoadLocation(fmt.Sprint(value)); err == nil {
				zone = z
			}
		}
		return moment(t.In(zone), format)
	}
}
