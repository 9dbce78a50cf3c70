package workflow

import (
	"fmt"
	"unicode/utf8"
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

// yamlNode is a node of a YAML document as it stands in the file. An alias is the node that it means, so that a node
// may contain itself: whoever walks must count.
type yamlNode struct {
	Pos
	kind  yamlKind
	plain bool   // of a scalar: without quotes and block style
	tag   string // in full, empty if the file gives none
	value string // of a scalar
	items []*yamlNode
}

// readYAML reads the one document of a file. The node is nil if there is none. A mistake is a Finding without a path:
// the first one, for what follows a mistake in YAML cannot be told.
//
// It is a reader of our own because everything this package says rests on it: mistakes and values have the positions
// that GitHub gives them (its reader, YamlDotNet, counts UTF-16 units and marks a node where its anchor or tag begins),
// a file is refused as soon as it passes a limit and not after a tree of it was built, and what GitHub takes is taken.
// The libraries there are point at the start of the block around a mistake instead of the mistake, or differ in what
// they take.
func readYAML(src []byte) (*yamlNode, *Finding) {
	if mistake := checkText(src); mistake != nil {
		return nil, mistake
	}
	c := composer{scanner: newScanner(src), anchors: map[string]*yamlNode{}, handles: map[string]string{"!": "!", "!!": yamlTag}}
	root := c.document()
	if c.fault != nil {
		return nil, c.fault
	}
	return root, nil
}

// checkText refuses what is no text of a reasonable size.
func checkText(src []byte) *Finding {
	tooLarge := &Finding{Message: fmt.Sprintf("The maximum file size of %d characters has been exceeded", maxFileSize)}
	if len(src) > 4*maxFileSize {
		return tooLarge
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
		units += utf16Width(size)
		pos.Column += utf16Width(size)
		if r == '\n' {
			pos = Pos{pos.Line + 1, 1}
		}
		rest = rest[size:]
	}
	if units > maxFileSize {
		return tooLarge
	}
	return nil
}

// utf16Width is how many UTF-16 units a character has that takes so many bytes.
func utf16Width(size int) int {
	if size == utf8.UTFMax {
		return 2
	}
	return 1
}

// composer builds the tree of one document out of tokens. After a fault every token is the end of the file, so that
// all loops come to an end by themselves.
type composer struct {
	*scanner
	anchors map[string]*yamlNode
	handles map[string]string // of tags
	nodes   int
	depth   int
}

const (
	sayNoDocumentStart = "While parsing a document, did not find expected document start."
	sayOneDocument     = "Only one YAML document is expected in a file"
)

func (c *composer) document() *yamlNode {
	directives := c.directives()
	if t := c.peek(); t.kind == tokenDocumentStart {
		c.next()
	} else if directives {
		c.failAt(t.start, sayNoDocumentStart)
	} else if t.kind == tokenEnd {
		return nil
	}
	root := c.content()
	for c.peek().kind == tokenDocumentEnd {
		c.next()
	}
	switch t := c.peek(); t.kind {
	case tokenEnd:
	case tokenDocumentStart, tokenDirective:
		c.failAt(t.start, sayOneDocument)
	default:
		c.failAt(t.start, sayNoDocumentStart)
	}
	return root
}

// directives reads what stands before a document. %YAML changes nothing, %TAG names tags.
func (c *composer) directives() (any bool) {
	for c.peek().kind == tokenDirective {
		t := c.next()
		if t.text != "" {
			c.handles[t.text] = t.suffix
		}
		any = true
	}
	return any
}

func (c *composer) content() *yamlNode {
	switch t := c.peek(); t.kind {
	case tokenDirective, tokenDocumentStart, tokenDocumentEnd, tokenEnd:
		return c.empty(t.start)
	default:
		return c.node(blockNode)
	}
}

// context is where a node stands.
type context uint8

const (
	flowNode     context = iota
	blockNode            // within a block
	blockOrEntry         // as a key or value of a block mapping: a sequence may follow without indentation
)

func (c *composer) empty(at mark) *yamlNode {
	return c.count(&yamlNode{Pos: at.pos(), plain: true})
}

// count adds a node to the file's budget.
func (c *composer) count(n *yamlNode) *yamlNode {
	c.nodes++
	if c.nodes > maxNodes {
		c.fail(n.Pos, sayNodes)
	}
	return n
}

func (c *composer) node(where context) *yamlNode {
	if t := c.peek(); t.kind == tokenAlias {
		c.next()
		return c.alias(t)
	}
	start := c.peek().start
	anchor, tag, decorated := c.properties()
	n := c.count(&yamlNode{Pos: start.pos(), tag: tag})
	if anchor != "" {
		c.anchors[anchor] = n
	}
	switch t := c.peek(); {
	case t.kind == tokenScalar:
		c.next()
		n.value, n.plain = t.text, t.plain
	case t.kind == tokenBlockEntry && where == blockOrEntry:
		c.within(n, yamlSequence, c.indentlessSequence)
	case t.kind == tokenFlowSequenceStart:
		c.within(n, yamlSequence, c.flowSequence)
	case t.kind == tokenFlowMappingStart:
		c.within(n, yamlMapping, c.flowMapping)
	case t.kind == tokenBlockSequenceStart && where != flowNode:
		c.within(n, yamlSequence, c.blockSequence)
	case t.kind == tokenBlockMappingStart && where != flowNode:
		c.within(n, yamlMapping, c.blockMapping)
	case decorated:
		n.plain = true
	default:
		c.failAt(t.start, "While parsing a node, did not find expected node content.")
	}
	return n
}

func (c *composer) alias(t token) *yamlNode {
	n := c.anchors[t.text]
	if n == nil {
		c.failAt(t.start, "Unknown anchor '"+t.text+"'")
		return &yamlNode{Pos: t.start.pos()}
	}
	return c.count(n)
}

// properties reads an anchor and a tag in any order.
func (c *composer) properties() (anchor, tag string, decorated bool) {
	for {
		t := c.peek()
		switch {
		case t.kind == tokenAnchor && anchor == "":
			anchor = t.text
		case t.kind == tokenTag && tag == "":
			prefix, ok := c.handles[t.text]
			if !ok && t.text != "" {
				c.failAt(t.start, "While parsing a node, find undefined tag handle.")
			}
			tag = prefix + t.suffix
		default:
			return anchor, tag, decorated
		}
		decorated = true
		c.next()
	}
}

// within reads a collection's content one level down.
func (c *composer) within(n *yamlNode, kind yamlKind, read func(*yamlNode)) {
	n.kind = kind
	if c.depth >= maxDepth {
		c.fail(n.Pos, sayDepth)
		return
	}
	c.depth++
	read(n)
	c.depth--
}

func (c *composer) blockSequence(n *yamlNode) {
	c.next()
	for c.peek().kind == tokenBlockEntry {
		after := c.next().end
		switch c.peek().kind {
		case tokenBlockEntry, tokenBlockEnd:
			n.items = append(n.items, c.empty(after))
		default:
			n.items = append(n.items, c.node(blockNode))
		}
	}
	c.expect(tokenBlockEnd, "While parsing a block collection, did not find expected '-' indicator.")
}

// indentlessSequence reads a sequence that is no further in than the key it belongs to.
func (c *composer) indentlessSequence(n *yamlNode) {
	for c.peek().kind == tokenBlockEntry {
		after := c.next().end
		switch c.peek().kind {
		case tokenBlockEntry, tokenKey, tokenValue, tokenBlockEnd:
			n.items = append(n.items, c.empty(after))
		default:
			n.items = append(n.items, c.node(blockNode))
		}
	}
}

func (c *composer) blockMapping(n *yamlNode) {
	c.next()
	for {
		switch t := c.peek(); t.kind {
		case tokenKey:
			n.items = append(n.items, c.blockPart(), c.blockValue())
		case tokenValue:
			n.items = append(n.items, c.empty(t.start), c.blockValue())
		default:
			c.expect(tokenBlockEnd, "While parsing a block mapping, did not find expected key.")
			return
		}
	}
}

// blockPart reads what follows a key or value indicator.
func (c *composer) blockPart() *yamlNode {
	after := c.next().end
	switch c.peek().kind {
	case tokenKey, tokenValue, tokenBlockEnd:
		return c.empty(after)
	default:
		return c.node(blockOrEntry)
	}
}

func (c *composer) blockValue() *yamlNode {
	if t := c.peek(); t.kind != tokenValue {
		return c.empty(t.start)
	}
	return c.blockPart()
}

func (c *composer) flowSequence(n *yamlNode) {
	c.next()
	for c.peek().kind != tokenFlowSequenceEnd && c.fault == nil {
		if len(n.items) > 0 {
			if !c.expect(tokenFlowEntry, "While parsing a flow sequence, did not find expected ',' or ']'.") {
				return
			}
			if c.peek().kind == tokenFlowSequenceEnd {
				break
			}
		}
		if t := c.peek(); t.kind == tokenKey || t.kind == tokenValue {
			n.items = append(n.items, c.flowPair(t))
		} else {
			n.items = append(n.items, c.node(flowNode))
		}
	}
	c.next()
}

// flowPair reads a mapping of one pair within a sequence: [a: b].
func (c *composer) flowPair(t token) *yamlNode {
	n := c.count(&yamlNode{Pos: t.start.pos()})
	c.within(n, yamlMapping, func(n *yamlNode) {
		n.items = append(n.items, c.flowKey(tokenFlowSequenceEnd), c.flowValue(tokenFlowSequenceEnd))
	})
	return n
}

func (c *composer) flowMapping(n *yamlNode) {
	c.next()
	for c.peek().kind != tokenFlowMappingEnd && c.fault == nil {
		if len(n.items) > 0 {
			if !c.expect(tokenFlowEntry, "While parsing a flow mapping, did not find expected ',' or '}'.") {
				return
			}
			if c.peek().kind == tokenFlowMappingEnd {
				break
			}
		}
		if t := c.peek(); t.kind == tokenKey || t.kind == tokenValue {
			n.items = append(n.items, c.flowKey(tokenFlowMappingEnd), c.flowValue(tokenFlowMappingEnd))
		} else {
			key := c.node(flowNode)
			n.items = append(n.items, key, c.empty(c.peek().start))
		}
	}
	c.next()
}

// flowKey reads a key within [] or {}, which end names.
func (c *composer) flowKey(end tokenKind) *yamlNode {
	if t := c.peek(); t.kind == tokenValue {
		return c.empty(t.start)
	}
	c.next()
	return c.flowPart(end)
}

func (c *composer) flowValue(end tokenKind) *yamlNode {
	if t := c.peek(); t.kind != tokenValue {
		return c.empty(t.start)
	}
	c.next()
	return c.flowPart(end)
}

func (c *composer) flowPart(end tokenKind) *yamlNode {
	switch t := c.peek(); t.kind {
	case tokenValue, tokenFlowEntry, end:
		return c.empty(t.start)
	default:
		return c.node(flowNode)
	}
}

// expect takes a token of a kind; anything else is a fault in the given words.
func (c *composer) expect(kind tokenKind, fault string) bool {
	if t := c.peek(); t.kind != kind {
		c.failAt(t.start, fault)
		return false
	}
	c.next()
	return true
}
