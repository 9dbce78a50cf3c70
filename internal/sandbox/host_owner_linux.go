package sandbox

import (
	"fmt"
	"os"
	"syscall"

	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// Owner is the host's user and group id that root inside this user's host machines has. Where it is not this user's own,
// the ids that follow are those of others inside; else files of theirs are root's too.
func Owner() int {
	if os.Getuid() == 0 {
		return firstID
	}
	return os.Getuid()
}

// give makes a file of the host belong to uid and gid inside, as far as this user can, and sets its mode.
func (h *Host) give(name string, mode os.FileMode, uid, gid int) error {
	if h.shifted() {
		if err := os.Lchown(name, h.owner+uid, h.owner+gid); err != nil {
			return err
		}
	}
	if mode&os.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(name, mode)
}

// insideOwner gives the mode of a host's file, and whom it belongs to as seen from inside.
func (h *Host) insideOwner(name string) (mode os.FileMode, uid, gid int, err error) {
	info, err := os.Lstat(name)
	if err != nil {
		return 0, 0, 0, err
	}
	mode = info.Mode() & (os.ModePerm | os.ModeSticky | os.ModeSetgid | os.ModeSetuid)
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, 0, fmt.Errorf("owner of %s: not known", name)
	}
	if !h.shifted() || st.Uid >= agent.IDs || st.Gid >= agent.IDs {
		return mode, 0, 0, nil
	}
	return mode, int(st.Uid), int(st.Gid), nil
}

// sameOwner gives a directory the owner and mode of another.
func sameOwner(from, to string) error {
	info, err := os.Stat(from) // a view's files are another layer's
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Getuid() {
		if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return os.Chmod(to, info.Mode()&(os.ModePerm|os.ModeSticky|os.ModeSetgid|os.ModeSetuid))
}
