// Package layer keeps directory layers: a workspace, a cache entry, a tool, the disk as it was before a step.
// Layers are captured by a rename, stacked, put in place by a mount, and collected when nothing needs them.
//
// It knows directories, overlay whiteouts and mounts. It never knows jobs.
package layer

// ID names a layer in a store: lower-case hexadecimal.
type ID string
