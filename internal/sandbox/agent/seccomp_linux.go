package agent

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refused are system calls that no job needs and that reach beyond a machine's namespaces or have been the way out of
// many: keyrings are not the machine's own, nor are the kernel's log, modules and clocks.
var refused = []uint32{
	unix.SYS_ADD_KEY, unix.SYS_KEYCTL, unix.SYS_REQUEST_KEY,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_SYSLOG, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_REBOOT,
}

// refused386 are the same for 32-bit programs on amd64, by their numbers in arch/x86/entry/syscalls/syscall_32.tbl.
var refused386 = []uint32{
	286, 288, 287, 283, 128, 350, 129, 357, 336, 374, 425, 426, 427, 342, 103, 87, 115, 51, 131, 443, 79, 264, 343, 124, 88, 404, 405,
}

// Offsets in struct seccomp_data.
const (
	dataNumber = 0
	dataArch   = 4
	dataArg0   = 16
)

// filter makes the program that refuses them with EPERM, and sockets to the hypervisor (AF_VSOCK has no namespaces).
func filter(arch string) []unix.SockFilter {
	const (
		allow  = unix.SECCOMP_RET_ALLOW
		refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		x32    = 0x40000000
	)
	native := uint32(unix.AUDIT_ARCH_X86_64)
	if arch == "arm64" {
		native = unix.AUDIT_ARCH_AARCH64
	}
	var p []unix.SockFilter
	load := func(offset uint32) {
		p = append(p, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
	}
	ret := func(action uint32) { p = append(p, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}) }
	// unless skips the next n instructions if the loaded value is another.
	unless := func(value uint32, n int) {
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(n), K: value})
	}
	refuseAll := func(numbers []uint32) {
		for _, n := range numbers {
			unless(n, 1)
			ret(refuse)
		}
	}
	load(dataArch)
	if arch == "amd64" {
		unless(unix.AUDIT_ARCH_I386, 1+2*len(refused386)+1)
		load(dataNumber)
		refuseAll(refused386)
		ret(allow)
	}
	unless(native, 1)
	p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: 1})
	ret(refuse)
	load(dataNumber)
	if arch == "amd64" {
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 1, K: x32})
		ret(refuse)
	}
	refuseAll(refused)
	unless(unix.SYS_SOCKET, 3)
	load(dataArg0)
	unless(unix.AF_VSOCK, 1)
	ret(refuse)
	ret(allow)
	return p
}

// confine puts the filter on all threads of this process and on what it starts. Root inside stays root: no_new_privs
// is not set, so sudo works.
func confine() error {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return nil
	}
	program := filter(runtime.GOARCH)
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&f)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return wrap("filter system calls", errno)
	}
	return nil
}
