package agent

import (
	"errors"
	"syscall"
)

// Operations of the warden.
const (
	OpHello  = iota + 1 // nothing -> nothing, or why there is no warden
	OpOpen              // Open -> Opened, with the agent's socket and the directories in memory; later a second answer: Ended
	OpAttach            // Attach -> nothing
	OpSwap              // Attach -> nothing
	OpDetach            // Attach -> nothing
	OpKill              // Number (machine) -> nothing; Ended follows as OpOpen's second answer
	OpRemove            // Paths -> nothing
)

// Operations of the agent.
const (
	OpBegin  = iota + 101 // Begin -> Begun, with the sockets of the network's relay
	OpExec                // Exec, with standard input, output and error -> Started (with the terminal), then Ended
	OpSignal              // Signal -> nothing
	OpIdle                // nothing -> Flags: whether no process is alive
	OpMkdir               // Mkdir -> Made
	OpCopy                // Paths, from and to -> nothing
	OpUnpack              // Paths of one directory, with the stream -> nothing
	OpPack                // Paths of one file, with the stream -> nothing (after the last byte)
	OpListen              // Number (port) -> nothing, with the listening socket
	OpDial                // Number (port) -> nothing, with a socket that is connected to it
	OpPoint               // Point -> Paths: what was made for it, parents first
	OpFiles               // Files -> nothing
)

// Answers.
const (
	opError = iota + 1001
	opAnswer
)

// Open asks the warden for a machine.
type Open struct {
	Mounts []Mount // the root first
	Beside int     // a machine whose network it shares: it is a container of that one; 0 for a network of its own
}

// Mount is one part of a machine's file tree.
type Mount struct {
	// At is the absolute path inside.
	At string
	// Bind shows this path of the host as it is, writable. Empty means an overlay.
	Bind string
	// Memory makes a file system in memory of at most so many bytes instead.
	Memory int
	// Lowers are the overlay's read-only directories, the topmost first.
	Lowers []Lower
	// Nested merges the last so many of Lowers into an overlay of their own first: an overlay takes no layer that
	// lies inside another of its layers.
	Nested int
	// Beneath makes what is at At in the machine the lowest of all.
	Beneath bool
	// Upper and Work are empty directories of one file system: where writes go.
	Upper, Work string
	// Source shows, in a container, this path of its machine instead, with all that is mounted below it.
	Source string
	// ReadOnly lets nobody write there.
	ReadOnly bool
}

// Lower is one read-only directory of an overlay.
type Lower struct {
	Path string
	// Host says that the directory holds the host's owners, not the machine's.
	Host bool
}

// Opened says that a machine stands.
type Opened struct{ Machine int }

// Attach adds mounts to a machine, puts them in the place of those at the same paths, or takes those away.
type Attach struct {
	Machine int
	Mounts  []Mount
}

// Begin is what the agent needs to know of its machine.
type Begin struct {
	Hostname  string
	Processes int
	Hosts     string   // for /etc/hosts; nothing leaves that and /etc/hostname as they are
	Resolver  string   // for /etc/resolv.conf; nothing leaves that as it is
	Dirs      []string // to make
}

// Point is where a mount goes, to be made if it is missing.
type Point struct {
	Path string
	File bool
}

// Begun answers Begin. TCP and UDP sockets come with it, of IPv4 and then of IPv6 if the host has it.
type Begun struct {
	Unreachable string // why there is no network but the machine's own, if there is none
}

// Exec starts a command.
type Exec struct {
	Args, Env  []string
	Dir        string
	TTY        bool
	Rows, Cols int
	User       string // name or id, with :group or without; empty is root
	Offline    bool   // without any network
}

// Started answers Exec.
type Started struct{ Pid int }

// Ended is how a process ended.
type Ended struct{ Code, Signal int }

// Signal sends a signal to the process of a command, or kills it with all its descendants.
type Signal struct {
	Pid, Signal int
	Tree        bool
}

// Mkdir makes a directory with its parents, unless Path is a file.
type Mkdir struct{ Path string }

// Made answers Mkdir.
type Made struct{ Empty, File bool }

// Paths, Flags and Number are plain lists and values.
type Paths struct{ Paths []string }

type Flags struct{ Flags []bool }

type Number struct{ N int }

func (m *Open) code(c *coder) {
	for i := range list(c, &m.Mounts) {
		m.Mounts[i].code(c)
	}
	c.int(&m.Beside)
}

func (m *Mount) code(c *coder) {
	c.string(&m.At)
	c.string(&m.Bind)
	c.int(&m.Memory)
	for i := range list(c, &m.Lowers) {
		c.string(&m.Lowers[i].Path)
		c.bool(&m.Lowers[i].Host)
	}
	c.int(&m.Nested)
	c.bool(&m.Beneath)
	c.string(&m.Upper)
	c.string(&m.Work)
	c.string(&m.Source)
	c.bool(&m.ReadOnly)
}

func (m *Opened) code(c *coder) { c.int(&m.Machine) }

func (m *Attach) code(c *coder) {
	c.int(&m.Machine)
	for i := range list(c, &m.Mounts) {
		m.Mounts[i].code(c)
	}
}

func (m *Begin) code(c *coder) {
	c.string(&m.Hostname)
	c.int(&m.Processes)
	c.string(&m.Hosts)
	c.string(&m.Resolver)
	c.strings(&m.Dirs)
}

func (m *Begun) code(c *coder) { c.string(&m.Unreachable) }
func (m *Point) code(c *coder) { c.string(&m.Path); c.bool(&m.File) }

func (m *Exec) code(c *coder) {
	c.strings(&m.Args)
	c.strings(&m.Env)
	c.string(&m.Dir)
	c.bool(&m.TTY)
	c.int(&m.Rows)
	c.int(&m.Cols)
	c.string(&m.User)
	c.bool(&m.Offline)
}

func (m *Started) code(c *coder) { c.int(&m.Pid) }
func (m *Ended) code(c *coder)   { c.int(&m.Code); c.int(&m.Signal) }
func (m *Signal) code(c *coder)  { c.int(&m.Pid); c.int(&m.Signal); c.bool(&m.Tree) }
func (m *Mkdir) code(c *coder)   { c.string(&m.Path) }
func (m *Made) code(c *coder)    { c.bool(&m.Empty); c.bool(&m.File) }
func (m *Paths) code(c *coder)   { c.strings(&m.Paths) }
func (m *Number) code(c *coder)  { c.int(&m.N) }

func (m *Flags) code(c *coder) {
	for i := range list(c, &m.Flags) {
		c.bool(&m.Flags[i])
	}
}

// failure is an error on its way: the system's own numbers stay recognizable to errors.Is.
type failure struct {
	text   string
	number int
}

func (m *failure) code(c *coder) { c.string(&m.text); c.int(&m.number) }

func failureOf(err error) *failure {
	f := &failure{text: err.Error()}
	var number syscall.Errno
	if errors.As(err, &number) {
		f.number = int(number)
	}
	return f
}

func (m *failure) err() error { return &remoteError{text: m.text, number: syscall.Errno(m.number)} }

type remoteError struct {
	text   string
	number syscall.Errno
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() error {
	if e.number == 0 {
		return nil
	}
	return e.number
}
