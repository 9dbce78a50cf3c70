package sandbox

import (
	"io"

	"github.com/penstock-ci/penstock/internal/sandbox/agent"
)

// Unpack writes a tar stream, such as Get gives, below a directory of this host that is made if missing. Entries that
// would leave it are an error.
func Unpack(dir string, tar io.Reader) error { return agent.Unpack(dir, tar) }
