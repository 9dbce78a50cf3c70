package layer

import "golang.org/x/sys/unix"

// opaque is how a directory says that it hides those below it, in overlays that keep their marks in user attributes.
const opaque = "user.overlay.opaque"

// SetOpaque makes a directory of a layer hide the directories below it.
func SetOpaque(dir string) error { return unix.Setxattr(dir, opaque, []byte("y"), 0) }

// Whiteout makes name say that nothing is there, whatever lies below.
func Whiteout(name string) error { return unix.Mknod(name, unix.S_IFCHR, 0) }
