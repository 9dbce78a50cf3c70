package agent

// Kinds of FileAction.
const (
	FileCopy   = "copy"
	FileMkdir  = "mkdir"
	FileMkfile = "mkfile"
	FileRemove = "rm"
	FileLink   = "symlink"
)

// FileAction is one change of files, as BuildKit's FileOp has them (solver/pb/ops.proto).
type FileAction struct {
	Kind string
	Path string // what is made, removed or copied to
	From string // copy: the source, below Root; symlink: the target
	Root string // copy: where the source's own root is
	Data string // mkfile
	Mode int    // permission bits; -1 keeps those of the source
	// ModeText is a mode in words instead: u=rwX,go=rX.
	ModeText string
	// Owner is user[:group] by name or id; empty is root for what is made, and the source's owner for what is copied.
	Owner string
	Time  int64 // nanoseconds; -1 keeps the source's or takes now

	Parents, NotFoundOK, Wildcard, EmptyOK, Contents, Follow, Unpack, Replace bool
	Include, Exclude                                                          []string
}
