package blob

import (
	"fmt"
	"os"
	"syscall"
)

// reserve is how much of a disk blobs leave free at most, bytes; of small disks it is an eighth.
const reserve = 64 << 20

// room refuses what would leave next to nothing of the disk. What else is on it needs little and counts more: of a job whose
// log has filled the disk, the database must still be told how it ended. The error wraps syscall.ENOSPC.
func (s *Dir) room(n int) error {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &disk); err != nil {
		return &os.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	block := uint64(disk.Bsize)
	free, all := disk.Bavail*block, disk.Blocks*block
	if keep := min(reserve, all/8); free < keep+uint64(n) {
		return fmt.Errorf("%w: %d MB are left on the disk that holds %s, and %d stay free for what counts more", syscall.ENOSPC, free>>20, s.dir, keep>>20)
	}
	return nil
}

// roomyFile is a file that does not fill the disk.
type roomyFile struct {
	s *Dir
	f *os.File
}

func (r roomyFile) Write(p []byte) (int, error) {
	if err := r.s.room(len(p)); err != nil {
		return 0, err
	}
	return r.f.Write(p)
}
