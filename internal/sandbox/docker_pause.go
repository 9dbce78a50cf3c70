package sandbox

import "encoding/binary"

// pauseCode is machine code that sleeps for ever, by Go's name of the architecture: a program for images that hold none.
// It waits for signals in a loop, with the system calls pause (34, amd64) and ppoll without arguments (73, arm64).
var pauseCode = map[string][]byte{
	"amd64": {
		0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to the mov
	},
	"arm64": {
		0x00, 0x00, 0x80, 0xd2, // mov x0, 0
		0x01, 0x00, 0x80, 0xd2, // mov x1, 0
		0x02, 0x00, 0x80, 0xd2, // mov x2, 0
		0x03, 0x00, 0x80, 0xd2, // mov x3, 0
		0x04, 0x00, 0x80, 0xd2, // mov x4, 0
		0x28, 0x09, 0x80, 0xd2, // mov x8, 73
		0x01, 0x00, 0x00, 0xd4, // svc 0
		0xf9, 0xff, 0xff, 0x17, // b to the first mov
	},
}

// pauseProgram is an executable for Linux that sleeps for ever; nil for architectures it is not known for.
func pauseProgram(arch string) []byte {
	code := pauseCode[arch]
	if code == nil {
		return nil
	}
	const base, headers = 0x400000, 64 + 56
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[arch]
	le := binary.LittleEndian
	p := append([]byte("\x7fELF"), 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0) // 64 bits, little endian, version 1
	p = le.AppendUint16(p, 2)                                          // an executable
	p = le.AppendUint16(p, machine)
	p = le.AppendUint32(p, 1)
	p = le.AppendUint64(p, base+headers) // where it begins
	p = le.AppendUint64(p, 64)           // where the program header is
	p = le.AppendUint64(p, 0)
	p = le.AppendUint32(p, 0)
	for _, n := range []uint16{64, 56, 1, 64, 0, 0} { // sizes and numbers of headers
		p = le.AppendUint16(p, n)
	}
	size := uint64(headers + len(code))
	p = le.AppendUint32(p, 1)                                     // to be loaded
	p = le.AppendUint32(p, 5)                                     // readable and executable
	for _, n := range []uint64{0, base, base, size, size, 4096} { // the whole file, at base
		p = le.AppendUint64(p, n)
	}
	return append(p, code...)
}
