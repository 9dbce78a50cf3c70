//go:build !linux

package deploy

// endMarked does nothing: this system does not show the environment of processes.
func endMarked(string) error { return nil }
