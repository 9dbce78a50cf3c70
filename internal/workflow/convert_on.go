package workflow

func (c *converter) triggers(n *Node) Triggers {
	if n.kind == nodeLiteral {
		return Triggers{{Pos: n.Pos, Event: n.text()}}
	}
	var out Triggers
	for _, item := range n.items {
		if out.Find(item.text()) == nil {
			out = append(out, Trigger{Pos: item.Pos, Event: item.text()})
		}
	}
	for _, p := range n.pairs {
		out = append(out, c.trigger(p.Key, p.Value))
	}
	return out
}

func (c *converter) trigger(key, n *Node) Trigger {
	t := Trigger{Pos: key.Pos, Event: key.text()}
	if t.Event == "schedule" && n.kind == nodeSequence {
		t.Schedules = c.schedules(n)
		return t
	}
	for _, p := range n.pairs {
		v := p.Value
		switch p.Key.text() {
		case "types":
			t.Types = v.texts()
		case "branches":
			t.Branches = c.patterns(v)
		case "branches-ignore":
			t.BranchesIgnore = c.patterns(v)
		case "tags":
			t.Tags = c.patterns(v)
		case "tags-ignore":
			t.TagsIgnore = c.patterns(v)
		case "paths":
			t.Paths = c.patterns(v)
		case "paths-ignore":
			t.PathsIgnore = c.patterns(v)
		case "workflows":
			t.Workflows = v.texts()
		case "names":
			t.Names = v.texts()
		case "versions":
			t.Versions = v.texts()
		case "inputs":
			t.Inputs = c.inputs(v, t.Event == "workflow_call")
		case "secrets":
			t.Secrets = c.secrets(v)
		case "outputs":
			t.Outputs = c.outputs(v)
		}
	}
	c.checkFilters(&t)
	return t
}

// patterns reads filter patterns.
func (c *converter) patterns(n *Node) []string {
	for _, name := range n.names() {
		if _, err := compilePattern(name.Text); err != nil {
			c.failf(name.Pos, "Invalid filter pattern '%s': %s", name.Text, err)
		}
	}
	return n.texts()
}

// checkFilters refuses a filter beside its opposite.
func (c *converter) checkFilters(t *Trigger) {
	both := func(name string, filter, ignore []string) {
		if filter != nil && ignore != nil {
			c.failf(t.Pos, "you may only define one of `%s` and `%s-ignore` for a single event", name, name)
		}
	}
	both("branches", t.Branches, t.BranchesIgnore)
	both("tags", t.Tags, t.TagsIgnore)
	both("paths", t.Paths, t.PathsIgnore)
}

func (c *converter) schedules(n *Node) []Schedule {
	out := make([]Schedule, 0, len(n.items))
	for _, item := range n.items {
		cron := item.Get("cron")
		s := Schedule{Pos: item.Pos, Cron: cron.text(), Timezone: item.Get("timezone").text()}
		if cron.isText() && !isCron(s.Cron) {
			c.fail(cron.Pos, "Invalid cron expression. Expected format: '* * * * *' (minute hour day month weekday)")
		} else if cron.isText() && minuteGap(s.Cron) < 5 {
			c.warn(cron.Pos, "Scheduled workflows run at most once every five minutes")
		}
		out = append(out, s)
	}
	return out
}

func (c *converter) inputs(n *Node, called bool) []Input {
	out := make([]Input, 0, len(n.pairs))
	for _, p := range n.pairs {
		v := p.Value
		if v.kind != nodeMapping {
			continue
		}
		in := Input{Pos: p.Key.Pos, Name: p.Key.text(), Type: "string", Description: v.Get("description").text(), Required: v.Get("required").isTrue(), Default: v.Get("default")}
		if t := v.Get("type"); t.isText() {
			in.Type = t.text()
		}
		if options := v.Get("options"); options != nil {
			in.Options = options.texts()
		}
		if called {
			c.checkCallDefault(&in)
		} else {
			c.checkDispatchDefault(&in)
		}
		c.checkOptions(&in, v)
		out = append(out, in)
	}
	return out
}

// checkCallDefault checks that the default of a called workflow's input has its type.
func (c *converter) checkCallDefault(in *Input) {
	d, kind := in.Default, callTypes()[in.Type]
	if d == nil || d.kind != nodeLiteral || kind == nil {
		return
	}
	if _, ok := kind.accept(d.value); !ok {
		c.failf(d.Pos, "Unexpected value '%s'", d.text())
	}
}

// checkDispatchDefault checks that a boolean input's default is one, be it in quotes.
func (c *converter) checkDispatchDefault(in *Input) {
	if d := in.Default; d != nil && d.kind == nodeLiteral && in.Type == "boolean" {
		if _, err := in.parse(d.text()); err != nil {
			c.fail(d.Pos, unexpectedType(d.Kind(), "input default", "boolean"))
		}
	}
}

// checkOptions checks that a choice, and nothing else, has options.
func (c *converter) checkOptions(in *Input, n *Node) {
	switch {
	case in.Type == "choice" && len(in.Options) == 0:
		c.fail(n.Pos, "Missing 'options' for choice input")
	case in.Type != "choice" && n.Get("options") != nil:
		c.fail(n.Pos, "Input type is not 'choice', but 'options' is defined")
	}
}

// tokenNames are GitHub's names for kinds of values, in its messages.
var tokenNames = map[string]string{
	"null": "NullToken", "boolean": "BooleanToken", "number": "NumberToken", "string": "StringToken",
	"sequence": "SequenceToken", "mapping": "MappingToken", "expression": "BasicExpressionToken", "insert": "InsertExpressionToken",
}

func unexpectedType(got, what, wanted string) string {
	return "Unexpected type '" + tokenNames[got] + "' encountered while reading '" + what + "'. The type '" + tokenNames[wanted] + "' was expected."
}

func (c *converter) secrets(n *Node) []Secret {
	out := make([]Secret, 0, len(n.pairs))
	for _, p := range n.pairs {
		v := p.Value
		out = append(out, Secret{Pos: p.Key.Pos, Name: p.Key.text(), Description: v.Get("description").text(), Required: v.Get("required").isTrue()})
	}
	return out
}

func (c *converter) outputs(n *Node) []Output {
	out := make([]Output, 0, len(n.pairs))
	for _, p := range n.pairs {
		v := p.Value
		out = append(out, Output{Pos: p.Key.Pos, Name: p.Key.text(), Description: v.Get("description").text(), Value: v.Get("value")})
	}
	return out
}
