//go:build !linux

package build

import (
	"time"

	"github.com/penstock-ci/penstock/internal/layer"
)

// Machines that run containers are Linux's alone: of a build elsewhere nothing comes as far as this.

func (b *Builder) contentOf(layer.ID) (string, error) { return "", errUnsupported }
func (b *Builder) bare(layer.ID) error                { return errUnsupported }
func ownByRoot(string) error                          { return errUnsupported }
func setTime(string, time.Time) error                 { return errUnsupported }
