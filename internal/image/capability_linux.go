package image

import "encoding/binary"

// What a file may do beyond its user is an attribute with the layout of the kernel's struct vfs_cap_data
// (linux/capability.h): revision 2 is for the host's own root, revision 3 has the id of the root that it is for at its end.
const (
	capRevision  = 0xff000000
	capRevision2 = 0x02000000
	capRevision3 = 0x03000000
	capSize2     = 20
	capSize3     = 24
)

// ownCapability gives a file's capabilities for the machines whose root is owner, or nil if they can not be read.
func ownCapability(value []byte, owner int) []byte {
	if len(value) != capSize2 && len(value) != capSize3 {
		return nil
	}
	magic := binary.LittleEndian.Uint32(value)
	if r := magic & capRevision; r != capRevision2 && r != capRevision3 || (r == capRevision2) != (len(value) == capSize2) {
		return nil
	}
	out := make([]byte, capSize3)
	copy(out, value[:capSize2])
	binary.LittleEndian.PutUint32(out, magic&^capRevision|capRevision3)
	binary.LittleEndian.PutUint32(out[capSize2:], uint32(owner))
	return out
}

// imageCapability is the reverse of ownCapability: what an image has of them.
func imageCapability(value []byte) []byte {
	if len(value) != capSize3 || binary.LittleEndian.Uint32(value)&capRevision != capRevision3 {
		return value
	}
	out := make([]byte, capSize2)
	copy(out, value)
	binary.LittleEndian.PutUint32(out, binary.LittleEndian.Uint32(value)&^capRevision|capRevision2)
	return out
}
