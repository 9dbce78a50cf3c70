// Package auth makes and checks what lets somebody in, and seals what is secret: tokens and their hashes, what scopes,
// roles and the permissions of a job's token allow, the sealed boxes that clients of GitHub's API send secrets in, and
// the sealing of secrets at rest under a key file.
//
// It is pure but for randomness and the key file: it knows no user, no repository and no request, and keeps nothing. No
// error and no text of a value has a token, a key or a secret in it.
package auth

import "errors"

var (
	// ErrToken says that a text can not be a token of this server: it is of another, or was mistyped.
	ErrToken = errors.New("not a token of penstock")
	// ErrSealed says that sealed bytes were changed, belong to something else, or were never sealed by this server.
	ErrSealed = errors.New("not sealed here for this, or changed since")
	// ErrNoKey says that the key is missing that something was sealed with.
	ErrNoKey = errors.New("the key file does not have the key")
)
