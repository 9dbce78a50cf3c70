// Package config reads penstock.yaml, the file at the root of a repository that says what GitHub's workflow files have
// no word for: which machine a runner label means, where an action really is, where images come from, how much a job
// may use, what is released, where to and how. It reads Flagger's manifests, which the file may name.
//
// It knows the file. It never looks whether what the file names is there: directories, images and registries are for
// who uses them.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Name is the file's name in the root of a repository.
const Name = "penstock.yaml"

// maxSize bounds the file, in bytes.
const maxSize = 256 << 10

// Config is a penstock.yaml. The zero Config is that of a repository without one. It never changes.
type Config struct {
	// RunsOn are the labels that stand for a machine, as written; each once, without case.
	RunsOn []RunsOn
	// Actions are the actions that are taken from the repository; each once, without case.
	Actions []Action
	Images  Images
	Limits  Limits
	// Services and Environments are what is released and where it goes, in the order of the file.
	Services     []Service
	Environments []Environment
	// Notes are what was accepted and has no effect.
	Notes []Finding
}

// Pos is a place in the file, counted from 1; columns in characters. The zero Pos is none.
type Pos struct{ Line, Column int }

// RunsOn is one entry of `runs-on:`.
type RunsOn struct {
	Pos
	Label   string
	Machine Machine
}

// Kind is a kind of machine.
type Kind string

// The kinds of machines.
const (
	Host   Kind = "host"   // this machine's own root, isolated
	None   Kind = "none"   // plain processes in a temporary directory
	Docker Kind = "docker" // a container that Docker makes, of the image that it takes for a job without one
	Image  Kind = "image"  // an image's root; written docker://IMAGE
)

// Machine is what a label stands for.
type Machine struct {
	Kind Kind
	// Image is the reference of the image as written, for Kind Image: postgres:15, ghcr.io/o/r@sha256:...
	Image string
}

// Action is one entry of `actions:`.
type Action struct {
	Pos
	// Uses is what a step names: owner/repo[/path][@ref]. Without a ref it stands for all of them, without a path for the
	// repository with all actions in it.
	Uses string
	// Dir is the directory to take instead: slash-separated, relative to the repository's root, within it, clean.
	Dir string
}

// Images is `images:`.
type Images struct {
	// Mirrors are asked in their order before the registry that is their key: host[:port][/prefix].
	Mirrors map[string][]string
	// Insecure are the registries that are spoken to over http: host[:port].
	Insecure []string
	// Push says what becomes of an image that a job pushes. Empty is Keep.
	Push Push
}

// Push says what becomes of an image that a job pushes to a registry.
type Push string

// What becomes of pushed images.
const (
	Keep Push = "keep" // it stays in the registry of this machine
	Send Push = "send" // it goes to the registry that its name says
)

// Limits is `limits:`, what each job may use unless it says otherwise. Zero fields are unlimited.
type Limits struct {
	Memory    int64   // bytes
	CPUs      float64 // cores
	Processes int
}

// Finding is a mistake in a file, or a note.
type Finding struct {
	Pos
	Path    string
	Message string // with what would be right
}

// String is the form of a workflow's findings: penstock.yaml (Line: 3, Col: 5): message.
func (f Finding) String() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s", f.Path, f.Message)
	}
	return fmt.Sprintf("%s (Line: %d, Col: %d): %s", f.Path, f.Line, f.Column, f.Message)
}

// Errors is every mistake of a file, in order of place; it is the error of Parse.
type Errors []Finding

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Read reads the penstock.yaml in root; a repository without one has the zero Config. The error is Errors if the file
// is there and wrong.
func Read(root string) (*Config, error) {
	data, err := ReadFile(root)
	if err != nil || data == nil {
		return &Config{}, err
	}
	return Parse(Name, data)
}

// ReadFile gives the bytes of the penstock.yaml in root, nil if there is none. A file that looks as if it was meant to
// be one is an error.
func ReadFile(root string) ([]byte, error) {
	f, err := os.Open(filepath.Join(root, Name))
	if errors.Is(err, fs.ErrNotExist) {
		for _, other := range []string{"penstock.yml", ".penstock.yaml", ".penstock.yml"} {
			if _, err := os.Lstat(filepath.Join(root, other)); err == nil {
				return nil, Errors{{Path: other, Message: "this file is not read: its name must be " + Name}}
			}
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", Name, errors.Unwrap(err))
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, Errors{{Path: Name, Message: "this is no regular file"}}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", Name, err)
	}
	return data, nil
}

// Machine is what the first of a job's labels that the file names stands for; ok is false if it names none of them.
func (c *Config) Machine(labels []string) (found RunsOn, ok bool) {
	for _, label := range labels {
		for _, r := range c.RunsOn {
			if strings.EqualFold(r.Label, label) {
				return r, true
			}
		}
	}
	return RunsOn{}, false
}

// Overrides are the actions' directories below root by what a step names, as forge.ActionSource takes them.
func (c *Config) Overrides(root string) map[string]string {
	dirs := map[string]string{}
	for _, a := range c.Actions {
		dirs[a.Uses] = filepath.Join(root, filepath.FromSlash(a.Dir))
	}
	return dirs
}
