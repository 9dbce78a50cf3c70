package job

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/sandbox"
	"github.com/penstock-ci/penstock/internal/workflow"
)

// shellArguments are the arguments of the shells that GitHub knows, and the ends of their scripts' names (actions/runner
// src/Runner.Worker/Handlers/ScriptHandlerHelpers.cs).
var (
	shellArguments = map[string]string{
		"pwsh": "-command \". '{0}'\"", "powershell": "-command \". '{0}'\"",
		"bash": "--noprofile --norc -e -o pipefail {0}", "sh": "-e {0}", "python": "{0}",
	}
	shellExtensions = map[string]string{"pwsh": ".ps1", "powershell": ".ps1", "bash": ".sh", "sh": ".sh", "python": ".py"}
)

// shell is how a script is run.
type shell struct {
	name      string // as in the file: bash
	program   string // what is executed
	arguments string // with {0} for the script
}

var errShell = errors.New("Invalid shell option. Shell must be a valid built-in (bash, sh, cmd, powershell, pwsh) or a format string containing '{0}'")

// shellFor reads a shell option; empty takes bash, or sh where there is none.
func (e *execution) shellFor(option string) (shell, error) {
	if option == "" {
		program := "sh"
		if e.lookUp("bash") != "" {
			program = "bash"
		}
		return shell{"sh", program, shellArguments["sh"]}, nil
	}
	name, arguments, _ := strings.Cut(option, " ")
	arguments = strings.TrimLeft(arguments, " ")
	if arguments == "" {
		arguments = shellArguments[strings.ToLower(name)]
	}
	if !strings.Contains(arguments, "{0}") {
		return shell{}, errShell
	}
	return shell{name, name, arguments}, nil
}

// lookUp finds a program in the PATH that steps begin with, as this host sees it; empty if it is not there. It is what
// the log shows: the machine itself looks again.
func (e *execution) lookUp(name string) string {
	if e.inImage {
		return "" // its programs are not this host's
	}
	if strings.Contains(name, "/") {
		return name
	}
	e.mu.Lock()
	dirs := append(slices.Clone(e.path), strings.Split(e.info.Path, ":")...)
	slices.Reverse(dirs[:len(e.path)])
	e.mu.Unlock()
	for _, dir := range dirs {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}

// command is the shell's command line for a script. Braces that are doubled are plain ones, as in .NET's formats.
func (s shell) command(script string) []string {
	return append([]string{s.program}, splitArguments(strings.NewReplacer("{{", "{", "}}", "}", "{0}", script).Replace(s.arguments))...)
}

// splitArguments splits a command line as .NET does, which the runner hands it to: at blanks outside double quotes;
// other quotes are plain text, and backslashes too but before a double quote.
func splitArguments(line string) []string {
	var out []string
	var word strings.Builder
	quoted, begun := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\':
			n := 1
			for i+n < len(line) && line[i+n] == '\\' {
				n++
			}
			i += n - 1
			begun = true
			if i+1 == len(line) || line[i+1] != '"' {
				word.WriteString(strings.Repeat(`\`, n))
				continue
			}
			word.WriteString(strings.Repeat(`\`, n/2))
			if n%2 == 1 {
				word.WriteByte('"')
				i++
			}
		case c == '"' && quoted && i+1 < len(line) && line[i+1] == '"':
			word.WriteByte('"')
			i++
		case c == '"':
			quoted, begun = !quoted, true
		case (c == ' ' || c == '\t') && !quoted:
			if begun {
				out = append(out, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	if begun {
		out = append(out, word.String())
	}
	return out
}

// fixUp is the script as it is written to its file.
func (s shell) fixUp(script string) string {
	if s.name == "pwsh" || s.name == "powershell" {
		script = "$ErrorActionPreference = 'stop'\n" + script + "\nif ((Test-Path -LiteralPath variable:\\LASTEXITCODE)) { exit $LASTEXITCODE }"
	}
	if !strings.HasSuffix(script, "\n") {
		script += "\n"
	}
	return script
}

// script evaluates a `run:` step: its text, its shell and the directory it runs in.
func (e *execution) script(r *stepRun) (text string, sh shell, dir string, err error) {
	env := e.env0(r.scope, r.env)
	v, err := r.def.Run.Eval(env)
	if err != nil {
		return "", shell{}, "", e.placed(err)
	}
	text = v.Text()
	option := ""
	if r.scope.action == nil {
		option, dir = e.defaults.shell, e.defaults.directory
	}
	for _, f := range []struct {
		node *workflow.Node
		into *string
	}{{r.def.Shell, &option}, {r.def.WorkingDirectory, &dir}} {
		if f.node == nil {
			continue
		}
		v, err := f.node.Eval(env)
		if err != nil {
			return "", shell{}, "", e.placed(err)
		}
		*f.into = v.Text()
	}
	if !path.IsAbs(dir) {
		dir = path.Join(e.info.Workspace, dir)
	}
	sh, err = e.shellFor(option)
	return text, sh, dir, err
}

// runScript runs a `run:` step.
func (e *execution) runScript(ctx context.Context, r *stepRun) error {
	text, sh, dir, err := e.script(r)
	if err != nil {
		return err
	}
	e.logScript(r, text, sh)
	file := path.Join(e.info.Files, rand.Text()+shellExtensions[strings.ToLower(sh.name)])
	if err := sandbox.WriteFile(ctx, e.sb, file, []byte(sh.fixUp(text)), 0o755); err != nil {
		return fmt.Errorf("write the script: %w", err)
	}
	defer e.remove(file)
	err = e.exec(ctx, r, sh.command(file), dir, nil)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return e.notStarted(ctx, sh.program, dir, fmt.Errorf("%s: command not found", sh.program))
	}
	return err
}

// notStarted says why a program could not be started: otherwise, unless it is the directory to run it in that is missing.
func (e *execution) notStarted(ctx context.Context, program, dir string, otherwise error) error {
	if _, err := sandbox.ReadFile(ctx, e.sb, dir, 0); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("An error occurred trying to start process '%s' with working directory '%s'. No such file or directory", program, dir)
	}
	return otherwise
}

// logScript writes the step's head as GitHub does.
func (e *execution) logScript(r *stepRun, script string, sh shell) {
	var b strings.Builder
	fmt.Fprintf(&b, "##[group]Run %s\n", firstLine(script))
	for line := range strings.SplitSeq(strings.TrimRight(strings.ReplaceAll(script, "\r\n", "\n"), "\n"), "\n") {
		fmt.Fprintf(&b, "\x1b[36;1m%s\x1b[0m\n", line)
	}
	program := e.lookUp(sh.program)
	if program == "" {
		program = sh.program
	}
	fmt.Fprintf(&b, "shell: %s %s\n", program, sh.arguments)
	writeEnv(&b, r.env)
	b.WriteString("##[endgroup]\n")
	e.log.write([]byte(b.String()))
}

// stepFiles are the command files of one execution.
type stepFiles struct {
	env   map[string]string // GITHUB_ENV=path, ...
	names map[string]string // by kind, absolute
}

// fileKinds are the command files by the variable that names them.
var fileKinds = []string{"ENV", "OUTPUT", "PATH", "STATE", "STEP_SUMMARY", "ARTIFACTS"}

const (
	// maxCommandFile bounds what is read of a command file, bytes. GitHub bounds outputs and summaries itself.
	maxCommandFile = 16 << 20
	// maxSummary and maxSummaries are GitHub's limits for step summaries.
	maxSummary   = 1 << 20
	maxSummaries = 20
)

// openFiles makes the command files of an execution.
func (e *execution) openFiles(ctx context.Context, r *stepRun) (*stepFiles, error) {
	f := &stepFiles{env: map[string]string{}, names: map[string]string{}}
	id := rand.Text()
	for _, kind := range fileKinds {
		file := path.Join(e.info.Files, strings.ToLower(kind)+"_"+id)
		if err := sandbox.WriteFile(ctx, e.sb, file, nil, 0o644); err != nil {
			return nil, fmt.Errorf("make command files: %w", err)
		}
		f.names[kind] = file
		f.env["GITHUB_"+kind] = file
	}
	for name, value := range r.use.state {
		f.env["STATE_"+name] = value
	}
	return f, nil
}

// remove deletes files of the runner's own when a step has ended: they may hold secrets, and a snapshot keeps the disk.
func (e *execution) remove(names ...string) {
	direct, ok := e.sb.(sandbox.Direct)
	if !ok {
		return
	}
	for _, name := range names {
		if rel, ok := strings.CutPrefix(name, e.info.Files+"/"); ok {
			_ = direct.Files().Remove(rel) // the job may have removed it
		}
	}
}

// takeFiles carries out what a step wrote into its command files. The errors are the runner's.
func (e *execution) takeFiles(r *stepRun, f *stepFiles) {
	for _, kind := range fileKinds {
		data, err := sandbox.ReadFile(e.ctx, e.sb, f.names[kind], maxCommandFile)
		if err == nil && len(data) > 0 {
			err = e.takeFile(r, kind, data)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			e.failAt(r, fmt.Errorf("Unable to process file command '%s' successfully.", strings.ToLower(kind)))
			e.failAt(r, err)
			r.refused = true
		}
		e.remove(f.names[kind])
	}
}

func (e *execution) takeFile(r *stepRun, kind string, data []byte) error {
	switch kind {
	case "PATH":
		e.addPaths(r, parsePaths(data)...)
		return nil
	case "STEP_SUMMARY":
		return e.takeSummary(r, data)
	case "ARTIFACTS":
		return nil // subjects of provenance: kept by the server, which does not exist yet
	}
	pairs, err := parsePairs(data)
	for _, p := range pairs {
		if p.name == "" {
			return errors.New("Value cannot be null. (Parameter 'name')")
		}
		switch kind {
		case "ENV":
			if strings.ContainsRune(p.name+p.value, 0) {
				return fmt.Errorf("Invalid format '%s'. A name and a value must not hold a NUL byte", p.name)
			}
			e.setEnv(r, p.name, p.value, "Can't store NODE_OPTIONS output parameter using '$GITHUB_ENV' command.")
		case "OUTPUT":
			setFold(r.outputs, p.name, p.value)
		case "STATE":
			setFold(r.use.state, p.name, p.value)
		}
	}
	return err
}

// setEnv sets a variable for the steps to come, also beyond a composite action. What `env:` says of a step, or of one
// around it, wins over it there, and the runner's own variables do everywhere. refusal is what a name that nobody may set
// is answered with.
func (e *execution) setEnv(r *stepRun, name, value, refusal string) {
	if strings.EqualFold(name, "NODE_OPTIONS") {
		e.failAt(r, errors.New(refusal))
		return
	}
	if r.late != nil {
		r.late.env = append(r.late.env, pair{name, value})
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.env[name] = value
}

// addPaths puts directories in front of PATH for the steps to come, the last first.
func (e *execution) addPaths(r *stepRun, dirs ...string) {
	if r.late != nil {
		r.late.paths = append(r.late.paths, dirs...)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, dir := range dirs {
		e.path = append(slices.DeleteFunc(e.path, func(p string) bool { return p == dir }), dir)
	}
}

func (e *execution) takeSummary(r *stepRun, data []byte) error {
	if len(data) > maxSummary {
		e.failAt(r, fmt.Errorf("$GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of %dk, got %dk. For more information see: https://docs.github.com/actions/using-workflows/workflow-commands-for-github-actions#adding-a-markdown-summary", maxSummary/1024, len(data)/1024))
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.summaries++; e.summaries > maxSummaries {
		return nil
	}
	text := e.mask.text(fileText(data))
	if r.number > 0 {
		e.steps[r.number-1].Summary += text
	}
	return nil
}
