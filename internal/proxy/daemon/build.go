package daemon

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// buildID tells one build of a program from another: Go's own build id, which changes with any of its code, or else the
// hash of the file.
func buildID(path string) (string, error) {
	if f, err := elf.Open(path); err == nil {
		defer f.Close()
		if s := f.Section(".note.go.buildid"); s != nil {
			if b, err := s.Data(); err == nil && len(b) > 16 {
				return shortHash(b), nil
			}
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("identify the program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("identify the program: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func shortHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
