package ci

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/workflow"
)

// files are the parsed files of a plan. They are immutable; copies of the plan share them.
type files struct {
	root   *file
	byUses map[string]*file // the root is ""
}

// file is a parsed file with its graph of jobs.
type file struct {
	source   File
	workflow *workflow.Workflow
	nodes    []*node
	byID     map[string]*node // lower case
}

// node is a job of a file among those it needs and that need it.
type node struct {
	def        *workflow.Job
	place      int // in file.nodes
	needs      []*node
	dependents []*node
}

// NewPlan makes a plan of a root file and all files that it calls, however deep. The rest of the plan is taken from
// rest, whose Workflow and Files are set here. It checks what only all files together show: inputs and secrets of calls,
// permissions that may only shrink, cycles, at most ten levels and fifty called files. Mistakes in the files are
// workflow.Errors; a job in rest.Only that does not exist is an error that names those that do.
func NewPlan(root File, calls []File, rest Plan) (*Plan, error) {
	p := rest
	p.Workflow = root.Path
	p.Files = []File{{Path: root.Path, Text: root.Text}}
	for _, f := range calls {
		if !slices.ContainsFunc(p.Files, func(g File) bool { return g.Uses == f.Uses }) {
			p.Files = append(p.Files, f)
		}
	}
	if err := p.parse(); err != nil {
		return nil, err
	}
	if faults := checkCalls(p.parsed); len(faults) > 0 {
		return nil, faults
	}
	if err := p.checkOnly(); err != nil {
		return nil, err
	}
	return &p, nil
}

// NewFaultyPlan makes the plan of a run that tells of mistakes: the run fails as it begins, as on GitHub. err is what reading the
// workflow file brought, workflow.Errors or another. The rest of the plan is taken from rest.
func NewFaultyPlan(path string, err error, rest Plan) *Plan {
	p := rest
	p.Workflow, p.Files, p.Mistakes = path, []File{{Path: path}}, nil
	var all workflow.Errors
	if !errors.As(err, &all) {
		p.Mistakes = []Annotation{{Level: "error", Title: faultyTitle, Message: err.Error(), File: path}}
	}
	for _, f := range all[:min(len(all), maxMistakes)] {
		p.Mistakes = append(p.Mistakes, Annotation{Level: "error", Title: faultyTitle, Message: f.String(), File: f.Path, Line: f.Line, Column: f.Column})
	}
	p.parsed = faulty(path)
	return &p
}

const (
	// faultyTitle is GitHub's.
	faultyTitle = "Invalid workflow file"
	// maxMistakes bounds how many mistakes of a file a run tells of.
	maxMistakes = 10
)

// faulty is a file that could not be read: it has no jobs.
func faulty(path string) *files {
	root := &file{source: File{Path: path}, workflow: &workflow.Workflow{Path: path}, byID: map[string]*node{}}
	return &files{root: root, byUses: map[string]*file{"": root}}
}

// UnmarshalJSON reads a plan as it was stored and parses its files again.
func (p *Plan) UnmarshalJSON(data []byte) error {
	type plain Plan
	var read plain
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	*p = Plan(read)
	if len(p.Mistakes) > 0 {
		p.parsed = faulty(p.Workflow)
		return nil
	}
	if err := p.parse(); err != nil {
		return fmt.Errorf("read stored plan: %w", err)
	}
	return nil
}

// Root is the root workflow.
func (p *Plan) Root() *workflow.Workflow { return p.parsed.root.workflow }

// Job finds a job by the Uses of its file, empty for the root, and its ID, without case; nil if there is none.
func (p *Plan) Job(file, def string) *workflow.Job {
	n := p.parsed.node(file, def)
	if n == nil {
		return nil
	}
	return n.def
}

// Calls gives what a workflow calls, as File.Uses names it, each once. callerUses is how the workflow itself was called,
// empty for the root: a local call in a workflow of another repository stays in that repository and at that commit.
func Calls(callerUses string, w *workflow.Workflow) []string {
	var out []string
	for _, j := range w.Jobs {
		if j.Uses == "" {
			continue
		}
		if uses := resolve(callerUses, j.Uses); !slices.Contains(out, uses) {
			out = append(out, uses)
		}
	}
	return out
}

// resolve gives the full name of what a file calls.
func resolve(callerUses, uses string) string {
	local, ok := strings.CutPrefix(uses, "./")
	if !ok || callerUses == "" || strings.HasPrefix(callerUses, "./") {
		return uses
	}
	path, ref, _ := strings.Cut(callerUses, "@")
	parts := strings.SplitN(path, "/", 3)
	if len(parts) < 3 {
		return uses
	}
	return parts[0] + "/" + parts[1] + "/" + local + "@" + ref
}

func (p *Plan) parse() error {
	parsed := &files{byUses: map[string]*file{}}
	var faults workflow.Errors
	for _, f := range p.Files {
		w, err := workflow.ParseWorkflow(f.Path, []byte(f.Text))
		if err != nil {
			var found workflow.Errors
			if !errors.As(err, &found) {
				return err
			}
			faults = append(faults, found...)
			continue
		}
		one, err := newFile(f, w)
		if err != nil {
			return err
		}
		parsed.byUses[f.Uses] = one
	}
	if len(faults) > 0 {
		return faults
	}
	parsed.root = parsed.byUses[""]
	if parsed.root == nil {
		return errors.New("the plan has no root workflow")
	}
	p.parsed = parsed
	return nil
}

func newFile(source File, w *workflow.Workflow) (*file, error) {
	f := &file{source: source, workflow: w, byID: make(map[string]*node, len(w.Jobs))}
	for i, j := range w.Jobs {
		n := &node{def: j, place: i}
		f.nodes = append(f.nodes, n)
		f.byID[strings.ToLower(j.ID)] = n
	}
	for _, n := range f.nodes {
		for _, need := range n.def.Needs {
			m := f.byID[strings.ToLower(need.Text)]
			if m == nil {
				return nil, fmt.Errorf("%s: job %s needs %s, which does not exist", w.Path, n.def.ID, need.Text)
			}
			if !slices.Contains(n.needs, m) {
				n.needs = append(n.needs, m)
				m.dependents = append(m.dependents, n)
			}
		}
	}
	return f, nil
}

// ancestors gives the jobs that a job needs, and those that they need, each once, the nearest first. They are found anew
// each time: kept, they would take memory with the square of a long chain.
func (f *file) ancestors(n *node) iter.Seq[*node] {
	return func(yield func(*node) bool) {
		seen := make([]bool, len(f.nodes))
		queue := []*node{n}
		for ; len(queue) > 0; queue = queue[1:] {
			for _, m := range queue[0].needs {
				if seen[m.place] {
					continue
				}
				if !yield(m) {
					return
				}
				seen[m.place] = true
				queue = append(queue, m)
			}
		}
	}
}

func (f *files) node(uses, def string) *node {
	one := f.byUses[uses]
	if one == nil {
		return nil
	}
	return one.byID[strings.ToLower(def)]
}

// called is the file that a call leads to.
func (f *files) called(callerUses string, def *workflow.Job) *file {
	return f.byUses[resolve(callerUses, def.Uses)]
}

// selected are the root jobs that run: all, or those of Only with what they need.
func (p *Plan) selected() []*node {
	root := p.parsed.root
	if len(p.Only) == 0 {
		return root.nodes
	}
	wanted := map[*node]bool{}
	for _, id := range p.Only {
		if n := root.byID[strings.ToLower(id)]; n != nil {
			wanted[n] = true
			for m := range root.ancestors(n) {
				wanted[m] = true
			}
		}
	}
	var out []*node
	for _, n := range root.nodes {
		if wanted[n] {
			out = append(out, n)
		}
	}
	return out
}

func (p *Plan) checkOnly() error {
	for _, id := range p.Only {
		if p.parsed.root.byID[strings.ToLower(id)] != nil {
			continue
		}
		var known []string
		for _, n := range p.parsed.root.nodes {
			known = append(known, n.def.ID)
		}
		return fmt.Errorf("%s has no job '%s'; it has %s", p.Workflow, id, enumerate(known, "and"))
	}
	return nil
}

// enumerate writes a list as people do: a, b and c.
func enumerate(words []string, last string) string {
	if n := len(words) - 1; n > 0 {
		return strings.Join(words[:n], ", ") + " " + last + " " + words[n]
	}
	return strings.Join(words, "")
}
