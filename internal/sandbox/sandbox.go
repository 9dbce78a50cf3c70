// Package sandbox gives a job a machine: somewhere to run commands with a file system, a network and a process
// tree of its own, opened in milliseconds and gone without a trace when closed.
//
// Providers are `host` (Linux namespaces and overlay mounts, no daemon), `docker` (containers of a Docker daemon) and
// `none` (plain processes in a temporary directory); all pass one conformance suite. The package knows commands, files and mounts. It never knows
// workflows, steps or secrets.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/penstock-ci/penstock/internal/layer"
	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// Provider opens machines.
type Provider interface {
	// Open gives a machine that lives until Close. It fails with a wrapped cause that says what the kernel or
	// the spec refused; nothing half-open stays behind.
	Open(ctx context.Context, spec Spec) (Sandbox, error)
}

// Spec is what a job asks of its machine.
type Spec struct {
	// Name is the host name inside and the label in messages: letters, digits, hyphens.
	Name string
	// Repo is the repository's short name. The workspace has GitHub's shape: .../work/REPO/REPO, made empty.
	Repo string
	// Image is what the machine shows instead of this host's tools; the zero Image shows those. A provider that can not
	// have it returns ErrNoImages.
	Image Image
	// Names are further host names by which the machine finds its own loopback: those of its containers.
	Names []string
	// From is the snapshot (Layered.Snapshot) whose disk the machine begins with; empty begins fresh.
	From layer.ID
	// Limits bound the whole machine where the kernel allows; zero fields are unlimited.
	Limits Limits
}

// Image is a root file system.
type Image struct {
	// Ref is its full name, for messages and for providers that keep images themselves: docker.io/library/postgres:15.
	Ref string
	// Layers are its files, the lowest first, belonging to Owner and the ids that follow it.
	Layers []layer.ID
}

// Limits bound what all processes of a machine may use together.
type Limits struct {
	Memory    int64   // bytes
	CPUs      float64 // cores
	Processes int     // tasks, the guard against fork bombs; 0 takes the provider's default
}

// Sandbox is one open machine. All methods may be called from several goroutines.
type Sandbox interface {
	// Exec runs c to its end and returns *ExitError if it ran and failed, ctx's error if it was stopped.
	// When ctx ends the process gets SIGINT, after 7.5 s SIGTERM, after another 2.5 s SIGKILL with all its
	// descendants (the runner's own ladder: actions/runner ProcessInvoker).
	// Exec returns when the process itself has ended and its output is drained; descendants that keep the
	// output open past a short grace do not hold it up.
	Exec(ctx context.Context, c Command) error
	// Put unpacks a tar stream below dir (made if missing). Entries that would leave dir are an error.
	Put(ctx context.Context, dir string, tar io.Reader) error
	// Get packs the file or directory at path as a tar stream with names relative to path's parent.
	Get(ctx context.Context, path string) (io.ReadCloser, error)
	Info() Info
	// Close ends every process, unmounts and discards all writes that were not captured. It is idempotent.
	Close(ctx context.Context) error
}

// Command is one process to run.
type Command struct {
	Args []string // Args[0] is looked up in the PATH of Env, inside
	Env  []string // complete, KEY=VALUE
	Dir  string   // absolute, inside; empty is the workspace
	// User is who runs it, by name or id, with or without a group (postgres, 999:999): names are those of the machine's
	// own /etc/passwd and /etc/group. Empty is root.
	User string
	// Offline gives it no network at all, where the machine can.
	Offline bool
	Stdin   io.Reader
	// Stdout and Stderr may be the same writer: then both go through one pipe and keep their order.
	Stdout, Stderr io.Writer
	// Stop is how the process is stopped when the context ends; nil takes the provider's way (see Exec).
	Stop *Ladder
	// TTY gives the process a terminal (for penstock shell); Stdin and Stdout must then be *os.File terminals.
	TTY bool
}

// ExitError says that a command ran and failed.
type ExitError struct {
	Code   int    // exit code; 128+signal if a signal ended it
	Signal string // "killed", "segmentation fault", ... or empty
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return fmt.Sprintf("ended by signal: %s (exit code %d)", e.Signal, e.Code)
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// Info describes an open machine.
type Info struct {
	Provider string // "host", "none", "docker"
	// OS and Arch in the runner context's words: Linux, macOS, Windows; X64, ARM64.
	OS, Arch string
	// Paths inside: the workspace (GITHUB_WORKSPACE), a directory for temporary files (RUNNER_TEMP), the tool cache
	// (RUNNER_TOOL_CACHE) and the home directory.
	Workspace, Temp, ToolCache, Home string
	// Files is a directory for the runner's own files: scripts, command files, what may hold secrets. It is no part
	// of the disk that snapshots keep; a host machine has it in memory.
	Files string
	// Path is the PATH that commands should start from.
	Path string
	// Notes are sentences for the user on what this machine lacks (e.g. why it is not isolated).
	Notes []string
}

// ErrNoImages is wrapped by the errors of providers and machines that run no images.
var ErrNoImages = errors.New("this machine runs no images")

// Hosting is what a machine can also do that runs others beside itself: services of a job, Docker actions, steps of a
// build.
type Hosting interface {
	// Contain starts a container: a file tree and processes of its own, but the machine's network, so what listens on
	// the loopback is found there by both. Nothing runs in it before the first Exec, whose Dir is the root if empty. It
	// ends with the machine at the latest. Of Info only OS, Arch and Path say anything. The Sandbox is Changed too.
	Contain(ctx context.Context, c Container) (Sandbox, error)
}

// Container is what Hosting.Contain starts.
type Container struct {
	Name string // the host name inside, as Spec.Name
	// Image is what it shows; without a Ref it shows the machine's host as a machine does, with Layers on its root.
	Image  Image
	Mounts []Mount // in the order given: what lies below another comes after it
	Limits Limits
}

// Mount shows something at a path of a container.
type Mount struct {
	// Target is the absolute path inside; it is made if missing.
	Target string
	// Source is the absolute path of a file or directory of the machine, shown with all that is mounted below it. A
	// missing one is made, as a directory. Empty makes a file system in memory.
	Source   string
	ReadOnly bool
	Size     int64 // of a file system in memory, bytes; 0 takes 64 MiB
}

// Changed is what a container can also do.
type Changed interface {
	// Changes makes a layer of what was written to the container's root, to lie on top of its image's layers; it is empty
	// if nothing was. Mounts and what was made for them are no part of it. It returns ErrBusy while a process is alive.
	// The container can only be closed afterwards.
	Changes(ctx context.Context) (layer.ID, error)
}

// Builder is what a container can also do whose image is being built.
type Builder interface {
	Changed
	// Files changes files, one action after the other, as BuildKit's FileOp has them. Sources are paths of the container:
	// mounts.
	Files(ctx context.Context, actions []agent.FileAction) error
	// Finish is Changes, but ends what still runs: of a step of a build only the files stay.
	Finish(ctx context.Context) (layer.ID, error)
}

// Direct is what a machine on this host can also do: reach the runner's own files (Info.Files) without a copy.
// The root refuses names that leave it, symbolic links included, since the job may have placed them.
type Direct interface {
	Files() *os.Root
}

// Readable is what a machine can also do whose files this process may read where they are.
type Readable interface {
	// Open gives a directory of the machine, as it is at any time. It is for reading. The root refuses names that leave
	// it, links included.
	Open(dir string) (*os.Root, error)
}

// Networked is what a machine can also do whose loopback this process may serve on: the host's services for its job.
type Networked interface {
	// Listen opens a TCP listener on the machine's own 127.0.0.1; port 0 takes a free one. It ends with the machine.
	Listen(ctx context.Context, port int) (net.Listener, error)
}

// Dialer is what a machine can also do whose servers this process may call.
type Dialer interface {
	// Dial connects to a TCP port of the machine's own loopback.
	Dial(ctx context.Context, port int) (net.Conn, error)
}

// LocalListener is what a machine can also do that finds this process at a socket of its file tree.
type LocalListener interface {
	// ListenLocal opens a listener on a socket in Info.Files, before anything runs in the machine. It ends with the
	// machine.
	ListenLocal(name string) (net.Listener, error)
}

// ErrBusy is returned by Layered.Snapshot while processes of earlier commands are alive.
var ErrBusy = errors.New("processes of earlier commands are still running")

// Layered is what a machine on layers can also do.
type Layered interface {
	// Snapshot freezes the disk as it is now, with all mounts, and goes on writing on top. It returns ErrBusy
	// while processes of earlier commands are still alive or a container shows a part of the disk, since they would go
	// on writing below.
	// A disk without changes since the last snapshot gives the same ID again and costs next to nothing.
	Snapshot(ctx context.Context) (layer.ID, error)
	// Mount puts the layers (lowest first) at the absolute path at, with a fresh writable layer of their own on
	// top. No layers gives an empty directory whose content Capture can take by a rename. Content already at the
	// path stays visible beneath.
	Mount(ctx context.Context, at string, ids ...layer.ID) error
	// Overlay puts a directory of the host at the absolute path at, writes going to a layer on top. The paths in
	// hide (relative to dir, slash-separated) are not visible inside.
	Overlay(ctx context.Context, at, dir string, hide []string) error
	// Capture makes a layer of what is at the absolute path: by a rename if it is a mount of Mount, else by a copy.
	Capture(ctx context.Context, at string) (layer.ID, error)
}
