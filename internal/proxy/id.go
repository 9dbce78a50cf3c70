package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strconv"
)

// newTrace begins a trace that nobody has asked to be sampled.
func newTrace() string {
	var raw [24]byte
	random(raw[:])
	b := make([]byte, 0, 55)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, raw[:16])
	b = append(b, '-')
	b = hex.AppendEncode(b, raw[16:])
	return string(append(b, "-00"...))
}

// newID is for sticky clients. It is no secret, but two clients have never the same.
func newID() string {
	var raw [16]byte
	random(raw[:])
	return hex.EncodeToString(raw[:])
}

// random fills b, whose length is a multiple of 8. The generator is seeded by the system for each thread.
func random(b []byte) {
	for ; len(b) > 0; b = b[8:] {
		binary.LittleEndian.PutUint64(b, rand.Uint64())
	}
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
