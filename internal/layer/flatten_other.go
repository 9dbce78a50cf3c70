//go:build !linux

package layer

import "errors"

// Flatten needs overlays, which only Linux has.
func (s *Store) Flatten(...ID) (ID, error) { return "", errors.ErrUnsupported }
