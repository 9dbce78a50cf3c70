package workflow

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
)

// GitHub's limits on a file (actions/runner ParseOptions and YamlObjectReader).
const (
	maxFileSize = 1024 * 1024      // UTF-16 units
	maxDepth    = 50               // mappings and sequences within each other
	maxNodes    = 50000            // YAML events, aliases followed
	maxMemory   = 10 * 1024 * 1024 // bytes by GitHub's count
)

type yamlKind uint8

const (
	yamlScalar yamlKind = iota
	yamlSequence
	yamlMapping
)

// yamlNode is a node of a YAML document as it stands in the file. An alias is the node that it means.
type yamlNode struct {
	Pos
	kind  yamlKind
	plain bool   // of a scalar: without quotes and block style
	tag   string // in full, empty if the file gives none
	value string // of a scalar
	items []*yamlNode
}

// readYAML reads the one document of a file. A mistake is a Finding without a path.
func readYAML(src []byte) (*yamlNode, *Finding) {
	if mistake := checkText(src); mistake != nil {
		return nil, mistake
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(src, &doc); err != nil {
		return nil, yamlMistake(err)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	b := yamlBuilder{seen: map[*yaml.Node]*yamlNode{}}
	return b.node(doc.Content[0]), nil
}

func yamlMistake(err error) *Finding {
	var syntax *yaml.ParserError
	if errors.As(err, &syntax) {
		return &Finding{Pos: Pos{Line: max(syntax.Line, 1), Column: syntax.Column + 1}, Message: syntax.Message}
	}
	return &Finding{Message: strings.TrimPrefix(err.Error(), "yaml: ")}
}

// checkText refuses what is no text of a reasonable size.
func checkText(src []byte) *Finding {
	if len(src) > 4*maxFileSize {
		return &Finding{Message: fmt.Sprintf("The maximum file size of %d characters has been exceeded", maxFileSize)}
	}
	units, pos := 0, Pos{1, 1}
	for rest := src; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if r == utf8.RuneError && size == 1 {
			return &Finding{Pos: pos, Message: "The file is not valid UTF-8"}
		}
		if r == 0 {
			return &Finding{Pos: pos, Message: "The file holds a NUL character"}
		}
		width := 1
		if r > 0xffff {
			width = 2
		}
		units += width
		pos.Column += width
		if r == '\n' {
			pos = Pos{pos.Line + 1, 1}
		}
		rest = rest[size:]
	}
	if units > maxFileSize {
		return &Finding{Message: fmt.Sprintf("The maximum file size of %d characters has been exceeded", maxFileSize)}
	}
	return nil
}

type yamlBuilder struct{ seen map[*yaml.Node]*yamlNode }

func (b *yamlBuilder) node(n *yaml.Node) *yamlNode {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if known := b.seen[n]; known != nil {
		return known
	}
	out := &yamlNode{Pos: Pos{n.Line, n.Column}, value: n.Value}
	b.seen[n] = out
	if n.Style&yaml.TaggedStyle != 0 {
		out.tag = n.LongTag()
	}
	switch n.Kind {
	case yaml.SequenceNode:
		out.kind = yamlSequence
	case yaml.MappingNode:
		out.kind = yamlMapping
	default:
		out.plain = n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	}
	for _, c := range n.Content {
		out.items = append(out.items, b.node(c))
	}
	return out
}
