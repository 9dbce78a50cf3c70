//go:build !linux

package store

import "errors"

func mountSmall(string, int) error { return errors.ErrUnsupported }
