// Package blob keeps bytes by key: logs, artifacts, packed layers. This is the directory store; keys are
// slash-separated names that can not leave it. It knows nothing of what the bytes mean.
package blob
