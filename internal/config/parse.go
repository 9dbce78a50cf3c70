package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Parse reads data as the file called name. The error is Errors, with every mistake there is; a file that is no YAML
// has one.
func Parse(name string, data []byte) (*Config, error) {
	r := &reader{path: name}
	c := &Config{}
	if n := r.document(data); n != nil {
		at := r.section(n, sections(c))
		if environments := at["environments"]; environments != nil {
			c.Environments = r.environments(environments, c.Services)
			if len(c.Environments) > 0 && len(c.Services) == 0 && len(r.found) == 0 {
				r.mistake(environments, "there is nothing to release: write services, too")
			}
		}
	}
	slices.SortStableFunc(r.found, byPlace)
	slices.SortStableFunc(r.notes, byPlace)
	if len(r.found) > 0 {
		return nil, r.found
	}
	c.Notes = r.notes
	return c, nil
}

// field is one key that a mapping may have, and what reads its value.
type field struct {
	key  string
	read func(r *reader, n *yaml.Node)
}

// sections are the keys of the file. The editor's schema, docs/penstock.schema.json, has the same.
func sections(c *Config) []field {
	return []field{
		{"runs-on", func(r *reader, n *yaml.Node) { c.RunsOn = r.runsOn(n) }},
		{"actions", func(r *reader, n *yaml.Node) { c.Actions = r.actions(n) }},
		{"images", func(r *reader, n *yaml.Node) {
			r.section(n, []field{
				{"mirrors", func(r *reader, n *yaml.Node) { c.Images.Mirrors = r.mirrors(n) }},
				{"insecure", func(r *reader, n *yaml.Node) { c.Images.Insecure = r.registries(n) }},
				{"push", func(r *reader, n *yaml.Node) { c.Images.Push = r.push(n) }},
			})
		}},
		{"limits", func(r *reader, n *yaml.Node) {
			r.section(n, []field{
				{"memory", func(r *reader, n *yaml.Node) { c.Limits.Memory = r.memory(n) }},
				{"cpus", func(r *reader, n *yaml.Node) { c.Limits.CPUs = r.cpus(n) }},
				{"processes", func(r *reader, n *yaml.Node) { c.Limits.Processes = r.processes(n) }},
			})
		}},
		{"services", func(r *reader, n *yaml.Node) { c.Services = r.services(n) }},
		{"environments", func(*reader, *yaml.Node) {}}, // read when all services are known: see Parse
	}
}

// document parses YAML with one document and gives its root, nil if it is empty or wrong.
func (r *reader) document(data []byte) *yaml.Node {
	if !r.readable(data) {
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil && dec.Decode(&second) == nil {
		r.mistake(&second, "a second document begins here: write one")
		return nil
	}
	if err != nil {
		r.noYAML(err)
		return nil
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		return nil
	}
	return doc.Content[0]
}

// readable says whether data may be parsed at all.
func (r *reader) readable(data []byte) bool {
	switch {
	case len(data) > maxSize:
		r.at(Pos{}, "the file is larger than %d KiB", maxSize>>10)
	case !utf8.Valid(data):
		r.at(placeOf(data, invalid(data)), "the file is not UTF-8 here")
	default:
		return true
	}
	return false
}

// noYAML tells of an error of the library's.
func (r *reader) noYAML(err error) {
	var syntax *yaml.ParserError
	if errors.As(err, &syntax) {
		if strings.HasPrefix(syntax.Message, "found character that cannot start any token") {
			syntax.Message += ": spaces indent, tabs do not, and a text that begins with @ or ` is quoted"
		}
		r.at(Pos{max(syntax.Line, 1), syntax.Column + 1}, "this is no YAML: %s", syntax.Message)
		return
	}
	line, message := yamlError(err)
	r.at(Pos{line, 1}, "this is no YAML: %s", message)
}

func invalid(data []byte) int {
	for i := 0; i < len(data); {
		c, size := utf8.DecodeRune(data[i:])
		if c == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(data)
}

func placeOf(data []byte, at int) Pos {
	before := data[:at]
	return Pos{bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1}
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(?s:(.*))$`)

// yamlError takes the line out of an error of the library's that has none but in its text.
func yamlError(err error) (line int, message string) {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return 1, err.Error()
	}
	line = 1
	if m[1] != "" {
		fmt.Sscan(m[1], &line)
	}
	return max(line, 1), m[2]
}

// runsOn reads LABEL: host|none|docker|docker://IMAGE.
func (r *reader) runsOn(n *yaml.Node) []RunsOn {
	var all []RunsOn
	r.mapping(n, func(key, value *yaml.Node) {
		text, ok := r.text(value)
		if !ok {
			return
		}
		m, err := ParseMachine(text)
		if err != nil {
			r.mistake(value, "%v", err)
			return
		}
		all = append(all, RunsOn{place(key), key.Value, m})
	})
	return all
}

// ParseMachine reads what `runs-on:` and the --platform option give a label: host, none, docker or docker://IMAGE.
func ParseMachine(text string) (Machine, error) {
	if image, ok := strings.CutPrefix(text, "docker://"); ok {
		if err := checkImage(image); err != nil {
			return Machine{}, fmt.Errorf("'%s' names no image: %w", text, err)
		}
		return Machine{Image, image}, nil
	}
	switch k := Kind(text); k {
	case Host, None, Docker:
		return Machine{Kind: k}, nil
	}
	if strings.ContainsAny(text, "/:") && checkImage(text) == nil {
		return Machine{}, fmt.Errorf("'%s' is no kind of machine: write an image as docker://%s", text, text)
	}
	return Machine{}, fmt.Errorf("'%s' is no kind of machine: there are host, none, docker and docker://IMAGE%s", text,
		didYouMean(text, []string{"host", "none", "docker"}))
}

var usesName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[^@\\\s]+)?(@[^@\s]+)?$`)

// actions reads owner/repo[/path][@ref]: ./dir.
func (r *reader) actions(n *yaml.Node) []Action {
	var all []Action
	r.mapping(n, func(key, value *yaml.Node) {
		name, _, _ := strings.Cut(key.Value, "@")
		if !usesName.MatchString(key.Value) || path.Clean(name) != name {
			r.mistake(key, "'%s' names no action: write owner/repo, owner/repo/path or owner/repo@ref", key.Value)
			return
		}
		text, ok := r.text(value)
		if !ok {
			return
		}
		if dir, ok := r.directory(value, text); ok {
			all = append(all, Action{place(key), key.Value, dir})
		}
	})
	return all
}

// directoryAt is a directory of the repository, as text.
func (r *reader) directoryAt(n *yaml.Node) string {
	text, ok := r.text(n)
	if !ok {
		return ""
	}
	dir, _ := r.directory(n, text)
	return dir
}

// pathAt is the path of a file within a directory of the repository; like names one.
func (r *reader) pathAt(n *yaml.Node, like string) string {
	text, ok := r.text(n)
	if !ok {
		return ""
	}
	name := path.Clean(text)
	if name == "." || strings.HasSuffix(text, "/") || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || strings.ContainsAny(text, "\\\x00") {
		r.mistake(n, "'%s' is no file of the repository: write one such as %s", text, like)
		return ""
	}
	return name
}

// directory is a directory of the repository. What lies outside of it is nobody else's to have, so a file that is
// committed can not rely on it.
func (r *reader) directory(n *yaml.Node, text string) (string, bool) {
	dir := path.Clean(text)
	switch {
	case text == "" || strings.ContainsAny(text, "\\\x00"):
		r.mistake(n, "'%s' is no directory: write one of this repository, such as ./actions/deploy", text)
	case path.IsAbs(dir) || dir == ".." || strings.HasPrefix(dir, "../"):
		r.mistake(n, "'%s' leads out of the repository: write a directory of it, such as ./actions/deploy", text)
	default:
		return dir, true
	}
	return "", false
}

// mirrors reads registry: [host, ...]; one host need not be a list.
func (r *reader) mirrors(n *yaml.Node) map[string][]string {
	all := map[string][]string{}
	r.mapping(n, func(key, value *yaml.Node) {
		if !registryName.MatchString(key.Value) {
			r.mistake(key, "'%s' is no registry: write its host, such as docker.io or registry.example:5000", key.Value)
			return
		}
		for _, e := range r.list(value) {
			text, ok := r.text(e)
			if !ok {
				continue
			}
			if host, _, _ := strings.Cut(text, "/"); !registryName.MatchString(host) || path.Clean(text) != text {
				r.mistake(e, "'%s' is no mirror: write HOST[:PORT][/PREFIX], without a scheme", text)
				continue
			}
			all[key.Value] = append(all[key.Value], text)
		}
	})
	return all
}

var registryName = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$`)

func (r *reader) registries(n *yaml.Node) []string {
	var all []string
	for _, e := range r.list(n) {
		if text, ok := r.text(e); ok && registryName.MatchString(text) {
			all = append(all, text)
		} else if ok {
			r.mistake(e, "'%s' is no registry: write HOST[:PORT], without a scheme or path", text)
		}
	}
	return all
}

func (r *reader) push(n *yaml.Node) Push {
	text, ok := r.text(n)
	if !ok {
		return ""
	}
	switch p := Push(text); p {
	case Keep, Send:
		return p
	}
	r.mistake(n, "'%s' is neither keep (in this machine's registry) nor send (to the registry that the name says)%s", text,
		didYouMean(text, []string{string(Keep), string(Send)}))
	return ""
}
