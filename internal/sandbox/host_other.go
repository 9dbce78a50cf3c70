//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"os"

	"github.com/penstock-ci/penstock/internal/layer"
)

// Host opens machines made of Linux namespaces: here, none.
type Host struct{ Ladder Ladder }

var errNoHost = errors.New("prepare host machines: they are made of Linux namespaces")

// NewHost says that this system has no namespaces.
func NewHost(*layer.Store, *Program) (*Host, error) { return nil, errNoHost }

// Owner is this user: there are no other owners without namespaces.
func Owner() int { return os.Getuid() }

// Open implements Provider.
func (*Host) Open(context.Context, Spec) (Sandbox, error) { return nil, errNoHost }

// Close does nothing.
func (*Host) Close() error { return nil }
