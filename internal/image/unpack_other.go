//go:build !linux

package image

import (
	"context"
	"errors"
	"io"

	"github.com/penstock-ci/penstock/internal/layer"
)

// canUnpack says whether this system has overlays to unpack for.
const canUnpack = false

func packTar(context.Context, io.Writer, string, layer.Layer) error { return errors.ErrUnsupported }

func unpackTar(context.Context, io.Reader, string, Options) (result, error) {
	return result{}, errors.ErrUnsupported
}
