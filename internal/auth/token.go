package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"hash/crc32"
	"strings"
)

const (
	// TokenPrefix begins every token, so that scanners for secrets find them.
	TokenPrefix = "pst_"

	randomChars   = 30 // of 62: 178 bits
	checksumChars = 6
	alphabet      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// NewToken makes a token: the prefix, 30 random characters, and 6 that are the CRC-32 of those before. It has the form of
// GitHub's tokens, and as there the checksum lets everyone tell a token from other text without asking the server.
// https://github.blog/engineering/behind-githubs-new-authentication-token-formats/
func NewToken() string {
	token := make([]byte, 0, len(TokenPrefix)+randomChars+checksumChars)
	token = append(token, TokenPrefix...)
	var pool [64]byte
	for len(token) < len(TokenPrefix)+randomChars {
		rand.Read(pool[:])
		for _, b := range pool {
			// What is above the last whole multiple of 62 would make some characters likelier.
			if b < 256/62*62 && len(token) < len(TokenPrefix)+randomChars {
				token = append(token, alphabet[b%62])
			}
		}
	}
	return string(token) + checksum(string(token))
}

func checksum(text string) string {
	sum := crc32.ChecksumIEEE([]byte(text))
	var out [checksumChars]byte
	for i := range out {
		out[checksumChars-1-i] = alphabet[sum%62]
		sum /= 62
	}
	return string(out[:])
}

// CheckToken looks whether a text is a token, without knowing whose. The error is ErrToken: such a text need not be looked
// up.
func CheckToken(text string) error {
	body, ok := strings.CutPrefix(text, TokenPrefix)
	if !ok || len(body) != randomChars+checksumChars {
		return ErrToken
	}
	for i := range len(body) {
		if strings.IndexByte(alphabet, body[i]) < 0 {
			return ErrToken
		}
	}
	if at := len(text) - checksumChars; checksum(text[:at]) != text[at:] {
		return fmt.Errorf("%w: its last %d characters do not fit the others", ErrToken, checksumChars)
	}
	return nil
}

// HashToken gives the SHA-256 of a token: what is stored, and what it is found by. A token has enough randomness to need
// neither salt nor a slow hash.
func HashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// IsToken reports whether a token is that of a hash, in a time that does not tell how much of it is right.
func IsToken(token string, hash []byte) bool {
	return subtle.ConstantTimeCompare(HashToken(token), hash) == 1
}
