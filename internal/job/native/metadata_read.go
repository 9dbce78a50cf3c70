package native

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// listInput is an input of one entry a line; lines that begin with # are left out. Quotes go: the original reads each line
// as CSV and puts its fields together again.
func (s *Step) listInput(name string) []string {
	var entries []string
	for _, line := range s.lines(name) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		r := csv.NewReader(strings.NewReader(line))
		r.LazyQuotes = true
		if fields, err := r.Read(); err == nil {
			line = strings.Join(fields, ",")
		}
		entries = append(entries, line)
	}
	return entries
}

// csvFields are the fields of an entry, each cut at its first "=" where it has a key.
func csvFields(entry string) ([][]string, error) {
	r := csv.NewReader(strings.NewReader(entry))
	r.FieldsPerRecord = -1
	fields, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("Invalid entry %s: %w", entry, err)
	}
	var out [][]string
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		if !ok || key == "" {
			out = append(out, []string{strings.TrimSpace(f)})
			continue
		}
		out = append(out, []string{strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)})
	}
	return out, nil
}

// readImages reads the input images (src/image.ts): names alone in one line, or one image a line with its attributes.
func readImages(entries []string) ([]string, error) {
	var names []string
	for _, entry := range entries {
		fields, err := csvFields(entry)
		if err != nil {
			return nil, err
		}
		bare := !slices.ContainsFunc(fields, func(f []string) bool { return len(f) > 1 })
		if bare && len(entries) == 1 {
			for _, f := range fields {
				names = append(names, strings.ToLower(f[0]))
			}
			return names, nil
		}
		name, enabled := "", true
		for _, f := range fields {
			switch {
			case len(f) == 1:
				name = f[0]
			case f[0] == "name":
				name = f[1]
			case f[0] == "enable" && (f[1] == "true" || f[1] == "false"):
				enabled = f[1] == "true"
			case f[0] == "enable":
				return nil, fmt.Errorf("Invalid enable attribute value: %s", entry)
			default:
				return nil, fmt.Errorf("Unknown image attribute: %s", entry)
			}
		}
		if name == "" {
			return nil, fmt.Errorf("Image name attribute empty: %s", entry)
		}
		if enabled {
			names = append(names, strings.ToLower(name))
		}
	}
	return names, nil
}

// readFlavor reads the input flavor (src/flavor.ts).
func readFlavor(entries []string) (metadataFlavor, error) {
	flavor := metadataFlavor{latest: "auto"}
	for _, entry := range entries {
		fields, err := csvFields(entry)
		if err != nil {
			return flavor, err
		}
		var onLatest *bool
		for _, f := range fields {
			if len(f) == 1 {
				return flavor, fmt.Errorf("Invalid flavor entry: %s", entry)
			}
			switch key, value := f[0], f[1]; key {
			case "latest":
				if flavor.latest = value; value != "auto" && value != "true" && value != "false" {
					return flavor, fmt.Errorf("Invalid latest flavor entry: %s", entry)
				}
			case "prefix":
				flavor.prefix, onLatest = value, &flavor.prefixLatest
			case "suffix":
				flavor.suffix, onLatest = value, &flavor.suffixLatest
			case "onlatest":
				if value != "true" && value != "false" {
					return flavor, fmt.Errorf("Invalid value for onlatest attribute: %s", value)
				}
				if onLatest != nil {
					*onLatest = value == "true"
				}
			default:
				return flavor, fmt.Errorf("Unknown flavor entry: %s", entry)
			}
		}
	}
	return flavor, nil
}

// tagPriorities are those of tags that say none (src/tag.ts).
var tagPriorities = map[string]string{
	"schedule": "1000", "semver": "900", "pep440": "900", "match": "800", "edge": "700", "ref": "600", "raw": "200", "sha": "100",
}

// readTags reads the input tags, the most important first.
func readTags(entries []string) ([]metadataTag, error) {
	if len(entries) == 0 {
		entries = []string{"type=schedule", "type=ref,event=branch", "type=ref,event=tag", "type=ref,event=pr"}
	}
	var tags []metadataTag
	for _, entry := range entries {
		t, err := readTag(entry)
		if err != nil {
			return nil, err
		}
		tags = append(tags, t)
	}
	priority := func(t metadataTag) float64 {
		n, err := strconv.ParseFloat(t.attrs["priority"], 64)
		if err != nil {
			return math.NaN()
		}
		return n
	}
	slices.SortStableFunc(tags, func(a, b metadataTag) int {
		if p, q := priority(a), priority(b); p == p && q == q { // no order with what is no number
			return cmp.Compare(q, p)
		}
		return 0
	})
	return tags, nil
}

func readTag(entry string) (metadataTag, error) {
	t := metadataTag{attrs: map[string]string{}}
	fields, err := csvFields(entry)
	if err != nil {
		return t, err
	}
	for _, f := range fields {
		switch {
		case len(f) == 1:
			t.set("value", f[0])
		case f[0] != "type":
			t.set(f[0], f[1])
		case tagPriorities[f[1]] == "":
			return t, fmt.Errorf("Unknown tag type attribute: %s", f[1])
		default:
			t.kind = f[1]
		}
	}
	if t.kind == "" {
		t.kind = "raw"
	}
	if err := t.complete(entry); err != nil {
		return t, err
	}
	t.orElse("enable", "true")
	t.orElse("priority", tagPriorities[t.kind])
	return t, nil
}

func (t *metadataTag) orElse(name, value string) {
	if !t.has(name) {
		t.set(name, value)
	}
}

// complete checks what a kind of tag needs and fills in what it may leave out.
func (t *metadataTag) complete(entry string) error {
	need := func(name string) error {
		if !t.has(name) {
			return fmt.Errorf("Missing %s attribute for %s", name, entry)
		}
		return nil
	}
	switch t.kind {
	case "schedule":
		t.orElse("pattern", "nightly")
	case "semver", "pep440":
		t.orElse("value", "")
		t.orElse("match", "")
		return need("pattern")
	case "match":
		t.orElse("group", "0")
		t.orElse("value", "")
		if _, err := strconv.ParseFloat(or(t.attrs["group"], "0"), 64); err != nil {
			return fmt.Errorf("Invalid match group for %s", entry)
		}
		return need("pattern")
	case "edge":
		t.orElse("branch", "")
	case "ref":
		if err := need("event"); err != nil {
			return err
		}
		if !slices.Contains([]string{"branch", "tag", "pr"}, t.attrs["event"]) {
			return fmt.Errorf("Invalid event for %s", entry)
		}
		if t.attrs["event"] == "pr" {
			t.orElse("prefix", "pr-")
		}
	case "raw":
		return need("value")
	case "sha":
		t.orElse("prefix", "sha-")
		t.orElse("format", "short")
		if f := t.attrs["format"]; f != "short" && f != "long" {
			return fmt.Errorf("Invalid format for %s", entry)
		}
	}
	return nil
}
