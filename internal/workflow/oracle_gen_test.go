package workflow

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator writes workflow and action files: mostly right ones, and then spoils some.
type generator struct {
	*rand.Rand
	spoil   float64 // how often a value is replaced by a wrong one
	anchors int
	known   []string // anchors that may be used
	steps   []string // IDs of the job's steps so far
}

// part is a piece of YAML before it is written.
type part struct {
	kind  yamlKind
	text  string // of a scalar, as it is to be understood
	raw   bool   // text is YAML already
	items []*part
	note  string // an anchor or tag before it
	alias bool
}

func word(s string) *part         { return &part{text: s} }
func yamlText(s string) *part     { return &part{text: s, raw: true} }
func listOf(items ...*part) *part { return &part{kind: yamlSequence, items: items} }
func mapOf(keysThenValues ...any) *part {
	p := &part{kind: yamlMapping}
	for _, x := range keysThenValues {
		if s, ok := x.(string); ok {
			x = word(s)
		}
		p.items = append(p.items, x.(*part))
	}
	return p
}

func (g *generator) pick(words ...string) string { return words[g.IntN(len(words))] }

func (g *generator) chance(p float64) bool { return g.Float64() < p }

// maybe adds a key to a mapping most of the time it is asked for.
func (g *generator) maybe(p *part, chance float64, key string, value func() *part) {
	if g.chance(chance) {
		p.items = append(p.items, word(key), value())
	}
}

func (g *generator) several(least, most int, one func() *part) *part {
	p := listOf()
	for range least + g.IntN(most-least+1) {
		p.items = append(p.items, one())
	}
	return p
}

func (g *generator) mapping(least, most int, key func() string, value func() *part) *part {
	p := mapOf()
	seen := map[string]bool{}
	for range least + g.IntN(most-least+1) {
		k := key()
		if !seen[strings.ToUpper(k)] || g.chance(g.spoil) {
			p.items = append(p.items, word(k), value())
		}
		seen[strings.ToUpper(k)] = true
	}
	return p
}

const plainWords = "a b main dev x-y build_1 release/** v1.* Ubuntu é 日本 😀 it's {} # ! 1.0 true on yes null 3.10 010 0x1F 0o17 1e3 -1 .5 ~ .inf"

func (g *generator) text() *part {
	switch g.IntN(8) {
	case 0:
		return word(g.pick(strings.Fields(plainWords)...) + " " + g.pick(strings.Fields(plainWords)...))
	case 1:
		return word(g.pick(strings.Fields(plainWords)...) + "\n" + g.pick(strings.Fields(plainWords)...) + "\n")
	case 2:
		return yamlText(g.number())
	case 3:
		return yamlText(g.pick("true", "false", "null", "~", "True", "on", "off", "yes", "12:30", "2001-01-01", "=", "<<", "''", `""`))
	default:
		return word(g.pick(strings.Fields(plainWords)...))
	}
}

func (g *generator) number() string {
	return g.pick("0", "1", "-1", "+1", "10", "010", "0o10", "0x1f", "1.5", "3.10", "1.", ".5", "1e3", "1E-2", ".inf", "-.INF", ".nan", "0.1e1", "1234567890", "1_000", "0b11", "0o8", "0xg", "--1", "1.2.3")
}

func (g *generator) boolean() *part {
	if g.chance(0.2) {
		return g.expression("github")
	}
	return yamlText(g.pick("true", "false", "True", "FALSE"))
}

// expression is a scalar with ${{ }} over one of the contexts.
func (g *generator) expression(contexts ...string) *part {
	inner := g.inner(contexts)
	switch g.IntN(6) {
	case 0:
		return word("x-${{ " + inner + " }}")
	case 1:
		return word("${{ " + inner + " }}/${{" + g.inner(contexts) + "}}")
	case 2:
		return word("${{ 'a''b' }}")
	default:
		return word("${{ " + inner + " }}")
	}
}

func (g *generator) inner(contexts []string) string {
	c := g.pick(contexts...)
	if g.chance(g.spoil * 2) {
		c = g.pick("github", "env", "secrets", "matrix", "steps", "needs", "foo", "jobs", "inputs", "vars", "runner", "job", "strategy")
	}
	if g.chance(g.spoil) {
		return g.pick("", c+".", "format('{0}'", "foo()", "hashFiles('x')", "success()", "always()", "insert", "insert a", "1 +", "'", c+" "+c, "!", c+".a == ")
	}
	return g.pick(c+".a", c+"['b']", "contains("+c+".x, 'y')", c+".a == 'b' && !"+c+".c", "toJSON("+c+")", "format('{0}', "+c+".a)", "1", "true", "fromJSON("+c+".list)[0]")
}

var (
	runContexts  = []string{"github", "inputs", "vars"}
	cellContexts = []string{"github", "inputs", "vars", "needs", "strategy", "matrix"}
	stepContexts = []string{"github", "inputs", "vars", "needs", "strategy", "matrix", "secrets", "steps", "job", "runner", "env"}
)

// value is text or an expression.
func (g *generator) value(contexts ...string) *part {
	if g.chance(0.3) {
		return g.expression(contexts...)
	}
	return g.text()
}

func (g *generator) id() string {
	return g.pick("a", "b", "c", "build", "test", "Test", "deploy-1", "_x", "lint", "e2e", "A")
}

func (g *generator) workflow() *part {
	w := mapOf()
	g.maybe(w, 0.4, "name", g.text)
	w.items = append(w.items, word("on"), g.on())
	g.maybe(w, 0.2, "run-name", func() *part { return g.value(runContexts...) })
	g.maybe(w, 0.2, "env", func() *part { return g.texts("github", "inputs", "vars", "secrets") })
	g.maybe(w, 0.2, "defaults", g.defaults)
	g.maybe(w, 0.2, "permissions", g.permissions)
	g.maybe(w, 0.2, "concurrency", func() *part { return g.concurrency(runContexts) })
	w.items = append(w.items, word("jobs"), g.jobs())
	return w
}

func (g *generator) on() *part {
	switch g.IntN(5) {
	case 0:
		return word(g.event())
	case 1:
		return g.several(1, 4, func() *part { return word(g.event()) })
	}
	p := mapOf()
	seen := map[string]bool{}
	for range 1 + g.IntN(3) {
		event := g.event()
		if seen[event] {
			continue
		}
		seen[event] = true
		p.items = append(p.items, word(event), g.trigger(event))
	}
	return p
}

func (g *generator) event() string {
	names := workflowSchema().property("on").value.mappings[0].properties
	if g.chance(g.spoil) {
		return g.pick("foo", "Push", "pull-request", "")
	}
	if g.chance(0.6) {
		return g.pick("push", "pull_request", "schedule", "workflow_dispatch", "workflow_call", "workflow_run", "release", "repository_dispatch")
	}
	for {
		// GitHub's package does not know repository_dispatch as a word.
		if name := names[g.IntN(len(names))].name; name != "repository_dispatch" {
			return name
		}
	}
}

func (g *generator) patterns() *part {
	one := func() *part {
		return word(g.pick("main", "dev/*", "release/**", "!x", "v[0-9]+", "*.js", "**/*.md", "a?", "docs/**"))
	}
	if g.chance(0.2) {
		return one()
	}
	return g.several(0, 3, one)
}

func (g *generator) trigger(event string) *part {
	if g.chance(0.2) && event != "schedule" {
		return yamlText("")
	}
	p := mapOf()
	switch event {
	case "schedule":
		return g.several(0, 2, func() *part {
			s := mapOf("cron", word(g.cron()))
			g.maybe(s, 0.3, "timezone", func() *part { return word(g.pick("Europe/Berlin", "UTC", "")) })
			return s
		})
	case "workflow_dispatch", "workflow_call":
		g.maybe(p, 0.8, "inputs", func() *part { return g.mapping(0, 3, g.id, func() *part { return g.input(event) }) })
		if event == "workflow_call" {
			g.maybe(p, 0.4, "secrets", func() *part {
				return g.mapping(0, 2, g.id, func() *part {
					s := mapOf()
					g.maybe(s, 0.5, "required", func() *part { return yamlText(g.pick("true", "false")) })
					g.maybe(s, 0.5, "description", g.text)
					return s
				})
			})
			g.maybe(p, 0.4, "outputs", func() *part {
				return g.mapping(0, 2, g.id, func() *part { return mapOf("value", g.value("github", "inputs", "vars", "jobs")) })
			})
		}
		return p
	}
	known := workflowSchema().property("on").value.mappings[0].property(event)
	if known == nil {
		return p
	}
	for _, mapping := range known.value.mappings {
		for _, f := range mapping.properties {
			g.maybe(p, 0.35, f.name, func() *part { return g.filter(f) })
		}
	}
	return p
}

func (g *generator) filter(f property) *part {
	if f.name != "types" || len(f.value.scalars) == 0 {
		return g.patterns()
	}
	allowed := f.value.scalars[0].constants
	one := func() *part { return word(g.pick(allowed...)) }
	if g.chance(0.3) {
		return one()
	}
	return g.several(0, 3, one)
}

func (g *generator) cron() string {
	field := func(words ...string) string { return g.pick(words...) }
	good := field("*", "0", "*/5", "5,10", "0-30", "10-50/20", "59") + " " + field("*", "3", "0-6", "*/2", "23") + " " +
		field("*", "1", "31", "1,15") + " " + field("*", "1", "JAN", "jan-mar", "12") + " " + field("*", "0", "MON-FRI", "sun", "6")
	if g.chance(0.2) {
		return field("", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7", "*/0 * * * *", "a * * * *", "5-1 * * * *", "* * * * * *", "1, * * * *", "1-2-3 * * * *", "@daily", "*  *  *  *  *", "1/2/3 * * * *", "* * * * mon,tue")
	}
	return good
}

func (g *generator) input(event string) *part {
	if g.chance(g.spoil) {
		return yamlText("")
	}
	kind := g.pick("string", "boolean", "number", "choice", "environment")
	if event == "workflow_call" {
		kind = g.pick("string", "boolean", "number")
	}
	p := mapOf()
	g.maybe(p, 0.9, "type", func() *part { return word(kind) })
	g.maybe(p, 0.4, "description", g.text)
	g.maybe(p, 0.4, "required", func() *part { return yamlText(g.pick("true", "false")) })
	g.maybe(p, 0.5, "default", func() *part {
		if g.chance(0.2) {
			return g.text()
		}
		return yamlText(map[string]string{"boolean": "true", "number": "12"}[kind] + "")
	})
	if kind == "choice" || g.chance(g.spoil) {
		g.maybe(p, 0.9, "options", func() *part { return g.several(0, 3, g.text) })
	}
	return p
}

func (g *generator) texts(contexts ...string) *part {
	if g.chance(0.1) {
		return g.expression(contexts...)
	}
	return g.mapping(0, 3, func() string { return g.pick("A", "B", "PATH_X", "é", "n-1", "n_2") }, func() *part { return g.value(contexts...) })
}

func (g *generator) defaults() *part {
	run := mapOf()
	g.maybe(run, 0.7, "shell", func() *part { return word(g.pick("bash", "sh", "python {0}")) })
	g.maybe(run, 0.7, "working-directory", func() *part { return word("src") })
	return mapOf("run", run)
}

func (g *generator) permissions() *part {
	if g.chance(0.3) {
		return word(g.pick("read-all", "write-all"))
	}
	return g.mapping(0, 4, func() string {
		return g.pick("actions", "contents", "id-token", "models", "packages", "pull-requests", "checks", "attestations", "vulnerability-alerts", "code-quality")
	}, func() *part { return word(g.pick("read", "write", "none")) })
}

func (g *generator) concurrency(contexts []string) *part {
	group := word(g.pick("g", "deploy"))
	if g.chance(0.5) {
		group = g.expression(contexts...)
	}
	if g.chance(0.4) {
		return group
	}
	p := mapOf("group", group)
	g.maybe(p, 0.6, "cancel-in-progress", g.boolean)
	g.maybe(p, 0.3, "queue", func() *part { return word(g.pick("single", "max")) })
	return p
}

func (g *generator) jobs() *part {
	ids := []string{}
	return g.mapping(1, 3, func() string {
		id := g.id()
		ids = append(ids, id)
		return id
	}, func() *part { return g.job(ids) })
}

func (g *generator) job(ids []string) *part {
	g.steps = nil
	j := mapOf()
	g.maybe(j, 0.3, "name", func() *part { return g.value(cellContexts...) })
	if len(ids) > 1 {
		g.maybe(j, 0.5, "needs", func() *part { return g.needs(ids) })
	}
	g.maybe(j, 0.3, "if", func() *part { return g.condition("github", "inputs", "vars", "needs") })
	g.maybe(j, 0.3, "strategy", g.strategy)
	g.maybe(j, 0.2, "permissions", g.permissions)
	g.maybe(j, 0.2, "concurrency", func() *part { return g.concurrency(cellContexts) })
	if g.chance(0.15) {
		return g.call(j)
	}
	j.items = append(j.items, word("runs-on"), g.runsOn())
	g.maybe(j, 0.2, "environment", g.environment)
	g.maybe(j, 0.2, "outputs", func() *part { return g.texts(stepContexts...) })
	g.maybe(j, 0.2, "env", func() *part { return g.texts(cellContexts...) })
	g.maybe(j, 0.2, "defaults", g.defaults)
	g.maybe(j, 0.15, "container", func() *part { return g.container(false) })
	g.maybe(j, 0.15, "services", func() *part { return g.mapping(0, 2, g.id, func() *part { return g.container(true) }) })
	g.maybe(j, 0.1, "snapshot", g.snapshot)
	g.maybe(j, 0.2, "timeout-minutes", func() *part { return yamlText(g.pick("5", "1.5", "360")) })
	g.maybe(j, 0.1, "cancel-timeout-minutes", func() *part { return yamlText("5") })
	g.maybe(j, 0.2, "continue-on-error", g.boolean)
	g.maybe(j, 0.95, "steps", func() *part { return g.several(0, 3, g.step) })
	return j
}

func (g *generator) needs(ids []string) *part {
	one := func() *part {
		if g.chance(0.1) {
			return word(g.id())
		}
		return word(ids[g.IntN(len(ids)-1)])
	}
	if g.chance(0.4) {
		return one()
	}
	return g.several(1, 2, one)
}

func (g *generator) condition(contexts ...string) *part {
	inner := g.inner(contexts)
	switch g.IntN(5) {
	case 0:
		return word("${{ " + inner + " }}")
	case 1:
		return word(g.pick("success()", "failure()", "always()", "cancelled()") + " && " + inner)
	case 2:
		return g.pick1(yamlText("true"), yamlText("1"), yamlText(""), word("${{ "+inner+" }} && x"), yamlText("''"), word(" "))
	default:
		return word(inner)
	}
}

func (g *generator) pick1(parts ...*part) *part { return parts[g.IntN(len(parts))] }

func (g *generator) call(j *part) *part {
	j.items = append(j.items, word("uses"), word(g.pick("./.github/workflows/x.yml", "o/r/.github/workflows/x.yaml@v1")))
	g.maybe(j, 0.5, "with", func() *part { return g.mapping(0, 3, g.id, func() *part { return g.value(cellContexts...) }) })
	g.maybe(j, 0.5, "secrets", func() *part {
		if g.chance(0.4) {
			return word("inherit")
		}
		return g.mapping(0, 2, g.id, func() *part { return g.expression("secrets", "needs") })
	})
	return j
}

func (g *generator) strategy() *part {
	s := mapOf()
	g.maybe(s, 0.3, "fail-fast", g.boolean)
	g.maybe(s, 0.3, "max-parallel", func() *part { return yamlText(g.pick("1", "2", "4")) })
	g.maybe(s, 0.9, "matrix", func() *part {
		if g.chance(0.2) {
			return g.expression("github", "needs", "vars")
		}
		m := g.mapping(1, 3, func() string { return g.pick("os", "version", "arch", "é") }, func() *part {
			if g.chance(0.2) {
				return g.expression("needs")
			}
			return g.several(1, 3, g.text)
		})
		entry := func() *part {
			return g.mapping(1, 3, func() string { return g.pick("os", "version", "extra") }, g.text)
		}
		g.maybe(m, 0.3, "include", func() *part { return g.several(0, 2, entry) })
		return m
	})
	return s
}

func (g *generator) runsOn() *part {
	label := func() *part {
		if g.chance(0.3) {
			return g.expression(cellContexts...)
		}
		return word(g.pick("ubuntu-latest", "self-hosted", "linux", "1"))
	}
	switch g.IntN(4) {
	case 0:
		return g.several(0, 3, label)
	case 1:
		p := mapOf()
		g.maybe(p, 0.6, "group", func() *part { return word(g.pick("big", "org/big", "enterprise/x")) })
		g.maybe(p, 0.6, "labels", label)
		return p
	}
	return label()
}

func (g *generator) environment() *part {
	if g.chance(0.4) {
		return g.value(cellContexts...)
	}
	p := mapOf("name", g.value(cellContexts...))
	g.maybe(p, 0.5, "url", func() *part { return g.value("steps", "github", "env") })
	g.maybe(p, 0.3, "deployment", g.boolean)
	return p
}

func (g *generator) container(service bool) *part {
	image := func() *part {
		if g.chance(0.3) {
			return g.expression(cellContexts...)
		}
		return word(g.pick("node:20", "docker://alpine", "ghcr.io/o/i:1"))
	}
	if g.chance(0.3) {
		return image()
	}
	p := mapOf("image", image())
	g.maybe(p, 0.3, "options", g.text)
	g.maybe(p, 0.3, "env", func() *part { return g.texts(stepContexts...) })
	g.maybe(p, 0.3, "ports", func() *part {
		return g.several(0, 2, func() *part { return yamlText(g.pick("80", "'80:80'", "5432/tcp")) })
	})
	g.maybe(p, 0.3, "volumes", func() *part { return g.several(0, 2, func() *part { return word("/a:/b") }) })
	g.maybe(p, 0.2, "credentials", func() *part { return mapOf("username", word("u"), "password", g.expression("secrets", "env")) })
	if service {
		g.maybe(p, 0.2, "entrypoint", g.text)
		g.maybe(p, 0.2, "command", g.text)
	}
	return p
}

func (g *generator) snapshot() *part {
	if g.chance(0.4) {
		return word("image")
	}
	p := mapOf("image-name", word("image"))
	g.maybe(p, 0.4, "version", func() *part { return word(g.pick("1.*", "2.*")) })
	return p
}

func (g *generator) step() *part {
	s := mapOf()
	id := ""
	if g.chance(0.4) {
		id = g.pick("a", "b", "c", "d", "build", "x-1", "_y")
		s.items = append(s.items, word("id"), word(id))
	}
	g.maybe(s, 0.4, "name", func() *part { return g.value(stepContexts...) })
	if g.chance(0.12) {
		return g.control(s)
	}
	g.maybe(s, 0.3, "if", func() *part {
		return g.condition("github", "inputs", "vars", "needs", "strategy", "matrix", "steps", "job", "runner", "env")
	})
	g.maybe(s, 0.2, "env", func() *part { return g.texts(stepContexts...) })
	g.maybe(s, 0.2, "continue-on-error", g.boolean)
	g.maybe(s, 0.2, "timeout-minutes", func() *part { return yamlText(g.pick("5", "0.5")) })
	if g.chance(0.6) {
		s.items = append(s.items, word("run"), g.script())
		g.maybe(s, 0.2, "shell", func() *part { return word(g.pick("bash", "pwsh", "perl {0}")) })
		g.maybe(s, 0.2, "working-directory", func() *part { return g.value(stepContexts...) })
	} else {
		s.items = append(s.items, word("uses"), word(g.pick("actions/checkout@v4", "o/r/path@main", "./local", "docker://alpine:3")))
		g.maybe(s, 0.6, "with", func() *part { return g.texts(stepContexts...) })
	}
	g.maybe(s, 0.1, "background", func() *part { return yamlText(g.pick("true", "false")) })
	if id != "" {
		g.steps = append(g.steps, id)
	}
	return s
}

func (g *generator) script() *part {
	return word(g.pick("echo hi", "make\n", "a\nb\n", "a\n\n  b\n", "echo ${{ github.sha }}\nls\n", "x: y", "# no", "echo '${{ env.A }}' \"b\"", "\n", "a \n b", "tab\there", "${{ matrix.x }}"))
}

func (g *generator) control(s *part) *part {
	target := func() *part {
		if len(g.steps) == 0 || g.chance(0.2) {
			return word(g.pick("a", "b", "__x", "none"))
		}
		return word(g.steps[g.IntN(len(g.steps))])
	}
	switch g.IntN(4) {
	case 0:
		if g.chance(0.5) {
			return mapOf(append(anyOf(s.items), "wait", target())...)
		}
		return mapOf(append(anyOf(s.items), "wait", g.several(0, 2, target))...)
	case 1:
		return mapOf(append(anyOf(s.items), "wait-all", yamlText(g.pick("", "true", "false")))...)
	case 2:
		return mapOf(append(anyOf(s.items), "cancel", target())...)
	default:
		return mapOf("parallel", g.several(0, 3, g.step))
	}
}

func anyOf(parts []*part) []any {
	out := make([]any, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return out
}

func (g *generator) action() *part {
	contexts := []string{"github", "inputs", "strategy", "matrix", "steps", "job", "runner", "env"}
	a := mapOf("name", g.text())
	g.maybe(a, 0.8, "description", g.text)
	g.maybe(a, 0.3, "author", g.text)
	g.maybe(a, 0.6, "inputs", func() *part {
		return g.mapping(0, 3, g.id, func() *part {
			in := mapOf()
			g.maybe(in, 0.5, "description", g.text)
			g.maybe(in, 0.5, "required", func() *part { return yamlText(g.pick("true", "false", "'true'")) })
			g.maybe(in, 0.5, "default", func() *part { return g.value("github", "runner", "job") })
			g.maybe(in, 0.2, "deprecationMessage", g.text)
			return in
		})
	})
	g.maybe(a, 0.5, "outputs", func() *part {
		return g.mapping(0, 2, g.id, func() *part {
			o := mapOf()
			g.maybe(o, 0.5, "description", g.text)
			g.maybe(o, 0.7, "value", func() *part { return g.value("steps", "inputs", "github") })
			return o
		})
	})
	runs := mapOf()
	switch g.IntN(3) {
	case 0:
		runs.items = mapOf("using", word(g.pick("node20", "node24")), "main", word("index.js")).items
		g.maybe(runs, 0.3, "pre", func() *part { return word("pre.js") })
		g.maybe(runs, 0.3, "post", func() *part { return word("post.js") })
		g.maybe(runs, 0.3, "post-if", func() *part { return word(g.pick("success()", "runner.os == 'linux'")) })
	case 1:
		runs.items = mapOf("using", word("docker"), "image", word(g.pick("Dockerfile", "docker://alpine"))).items
		g.maybe(runs, 0.4, "args", func() *part { return g.several(0, 3, func() *part { return g.value("inputs") }) })
		g.maybe(runs, 0.4, "env", func() *part { return g.texts("inputs") })
		g.maybe(runs, 0.2, "entrypoint", func() *part { return word("/run.sh") })
		g.maybe(runs, 0.2, "post-entrypoint", func() *part { return word("/post.sh") })
	default:
		runs.items = mapOf("using", word("composite")).items
		g.maybe(runs, 1, "steps", func() *part { return g.several(0, 4, func() *part { return g.compositeStep(contexts) }) })
	}
	a.items = append(a.items, word("runs"), runs)
	g.maybe(a, 0.3, "branding", func() *part { return mapOf("icon", word("box"), "color", word("blue")) })
	return a
}

func (g *generator) compositeStep(contexts []string) *part {
	s := mapOf()
	g.maybe(s, 0.3, "id", func() *part { return word(g.pick("a", "b", "c", "d", "x-1", "_y", "z", "q")) })
	g.maybe(s, 0.3, "name", func() *part { return g.value(contexts...) })
	g.maybe(s, 0.3, "if", func() *part { return g.condition(contexts...) })
	g.maybe(s, 0.2, "env", func() *part { return g.texts(contexts...) })
	g.maybe(s, 0.2, "continue-on-error", g.boolean)
	if g.chance(0.6) {
		s.items = append(s.items, word("run"), g.script(), word("shell"), word("bash"))
		g.maybe(s, 0.2, "working-directory", func() *part { return g.value(contexts...) })
	} else {
		s.items = append(s.items, word("uses"), word(g.pick("actions/checkout@v4", "./local", "docker://alpine:3")))
		g.maybe(s, 0.5, "with", func() *part { return g.texts(contexts...) })
	}
	return s
}

// mutate spoils a tree: a wrong kind, a key missing, doubled or misspelt, an expression where none may be.
func (g *generator) mutate(p *part) {
	for i, item := range p.items {
		isKey := p.kind == yamlMapping && i%2 == 0
		switch {
		case !g.chance(g.spoil):
		case isKey && g.chance(0.5):
			item.text += g.pick("x", "", " ")
		case isKey && g.chance(0.3):
			p.items[i] = g.pick1(g.expression("github"), word("${{ insert }}"), yamlText("1"))
		case isKey:
		default:
			p.items[i] = g.pick1(g.text(), g.expression(stepContexts...), listOf(), mapOf(), listOf(g.text()), mapOf("a", g.text()), yamlText(""), yamlText(g.number()))
		}
		g.mutate(p.items[i])
	}
	if p.kind == yamlMapping && len(p.items) > 0 && g.chance(g.spoil) {
		i := g.IntN(len(p.items)/2) * 2
		pair := p.items[i : i+2 : i+2]
		switch g.IntN(3) {
		case 0:
			p.items = append(p.items[:i:i], p.items[i+2:]...)
		case 1:
			p.items = append(p.items, pair...)
		default:
			p.items = append(p.items, word(strings.ToUpper(pair[0].text)), pair[1])
		}
	}
}

// decorate puts anchors, aliases and tags into a tree.
func (g *generator) decorate(p *part) {
	for i, item := range p.items {
		isKey := p.kind == yamlMapping && i%2 == 0
		if !isKey && len(g.known) > 0 && g.chance(0.05) {
			p.items[i] = &part{alias: true, text: g.pick(g.known...)}
			continue
		}
		g.decorate(item)
		if isKey || !g.chance(0.05) {
			continue
		}
		g.anchors++
		name := fmt.Sprintf("a%d", g.anchors)
		item.note = "&" + name
		g.known = append(g.known, name)
	}
}
